"""Classifier-free guidance: what the network is asked, and what is made of its answers."""

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn, guided_eps


class Model:
    """Predicts latents * mean(context) + timestep, and keeps what it was called with, and each context it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.given: list[Tensor] = []

    def eps_given(self, context: Tensor) -> EpsFn:
        self.given.append(context)
        return lambda latents, timesteps: self(latents, timesteps, context)

    def __call__(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        self.calls.append((latents, timesteps, context))
        return latents * context.mean(dim=(1, 2))[:, None, None, None] + timesteps[:, None, None, None]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS, TIMESTEPS = noise(2, 4, 3, 5, seed=0), torch.tensor([7, 901])
CONTEXT, UNCOND = noise(2, 6, 8, seed=1), noise(2, 6, 8, seed=2)


def test_both_halves_are_predicted_in_one_forward_pass_uncond_first() -> None:
    model = Model()
    guided_eps(model.eps_given, CONTEXT, UNCOND, 7.5)(LATENTS, TIMESTEPS)
    ((latents, timesteps, context),) = model.calls
    assert torch.equal(latents, torch.cat([LATENTS, LATENTS]))
    assert torch.equal(timesteps, torch.cat([TIMESTEPS, TIMESTEPS]))
    assert torch.equal(context, torch.cat([UNCOND, CONTEXT]))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 7.5])
def test_eps_is_moved_from_uncond_towards_cond_by_the_scale(scale: float) -> None:
    eps = guided_eps(Model().eps_given, CONTEXT, UNCOND, scale)(LATENTS, TIMESTEPS)
    eps_cond, eps_uncond = Model()(LATENTS, TIMESTEPS, CONTEXT), Model()(LATENTS, TIMESTEPS, UNCOND)
    torch.testing.assert_close(eps, eps_uncond + scale * (eps_cond - eps_uncond))


def test_at_scale_one_there_is_no_uncond_pass() -> None:
    model = Model()
    guided_eps(model.eps_given, CONTEXT, UNCOND, 1.0)(LATENTS, TIMESTEPS)
    ((latents, timesteps, context),) = model.calls
    assert torch.equal(latents, LATENTS)
    assert torch.equal(timesteps, TIMESTEPS)
    assert torch.equal(context, CONTEXT)


def test_fractional_timesteps_pass_through() -> None:
    model = Model()
    guided_eps(model.eps_given, CONTEXT, UNCOND, 2.0)(LATENTS, torch.tensor([949.05, 0.5]))
    torch.testing.assert_close(model.calls[0][1], torch.tensor([949.05, 0.5, 949.05, 0.5]))


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_model_is_given_its_context_once_for_all_steps(scale: float) -> None:
    model = Model()
    eps_fn = guided_eps(model.eps_given, CONTEXT, UNCOND, scale)
    for _ in range(3):
        eps_fn(LATENTS, TIMESTEPS)
    assert len(model.given) == 1
    assert len(model.calls) == 3

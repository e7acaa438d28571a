"""Guidance: what the network is given, and what is made of its predictions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ldm.diffusion.guidance import Conditioning, EpsFn, classifier_free, guided_eps


class Model:
    """Predicts latents * mean(context) + timestep + the mean of further channels, and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.given: list[Conditioning] = []

    def predictor(self, conditioning: Conditioning) -> EpsFn:
        self.given.append(conditioning)

        def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
            self.calls.append((latents, timesteps))
            eps = latents * conditioning.context.mean(dim=(1, 2))[:, None, None, None]
            if conditioning.concat is not None:
                eps = eps + conditioning.concat.mean(dim=1, keepdim=True)
            return eps + timesteps[:, None, None, None]

        return eps_fn


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS, TIMESTEPS = noise(2, 4, 3, 5, seed=0), torch.tensor([7, 901])
CONTEXT, UNCOND = noise(2, 6, 8, seed=1), noise(2, 6, 8, seed=2)


def test_both_halves_are_predicted_in_one_forward_pass_uncond_first() -> None:
    model = Model()
    guided_eps(model.predictor, classifier_free(CONTEXT, UNCOND, 7.5))(LATENTS, TIMESTEPS)
    ((latents, timesteps),) = model.calls
    assert torch.equal(latents, torch.cat([LATENTS, LATENTS]))
    assert torch.equal(timesteps, torch.cat([TIMESTEPS, TIMESTEPS]))
    assert torch.equal(model.given[0].context, torch.cat([UNCOND, CONTEXT]))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 1.5, 7.5])
def test_eps_is_moved_from_uncond_towards_cond_by_the_scale(scale: float) -> None:
    eps = guided_eps(Model().predictor, classifier_free(CONTEXT, UNCOND, scale))(LATENTS, TIMESTEPS)
    eps_cond, eps_uncond = (Model().predictor(Conditioning(c))(LATENTS, TIMESTEPS) for c in (CONTEXT, UNCOND))
    assert torch.equal(eps, eps_uncond + scale * (eps_cond - eps_uncond)) or scale in (0.0, 1.0)
    torch.testing.assert_close(eps, eps_uncond + scale * (eps_cond - eps_uncond))


@pytest.mark.parametrize(("scale", "left"), [(1.0, CONTEXT), (0.0, UNCOND)])
def test_a_conditioning_of_weight_zero_is_not_predicted(scale: float, left: Tensor) -> None:
    model = Model()
    guided_eps(model.predictor, classifier_free(CONTEXT, UNCOND, scale))(LATENTS, TIMESTEPS)
    ((latents, timesteps),) = model.calls
    assert torch.equal(latents, LATENTS)
    assert torch.equal(timesteps, TIMESTEPS)
    assert torch.equal(model.given[0].context, left)


@given(st.lists(st.floats(-8, 8), min_size=0, max_size=4))
def test_any_number_of_conditionings_is_their_weighted_sum(others: list[float]) -> None:
    weights = [1.0 - sum(others), *others]
    conditionings = [
        Conditioning(noise(2, 6, 8, seed=10 + i), noise(2, 5, 3, 5, seed=20 + i)) for i in range(len(weights))
    ]
    model = Model()
    eps = guided_eps(model.predictor, list(zip(weights, conditionings, strict=True)))(LATENTS, TIMESTEPS)
    expected = sum(
        weight * Model().predictor(one)(LATENTS.double(), TIMESTEPS.double())
        for weight, one in zip(weights, conditionings, strict=True)
    )
    torch.testing.assert_close(eps.double(), expected, rtol=1e-4, atol=2e-2)  # timesteps are up to 901
    assert len(model.calls) == 1


def test_weights_that_do_not_sum_to_one_and_half_given_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        guided_eps(Model().predictor, [(0.5, Conditioning(CONTEXT)), (0.4, Conditioning(UNCOND))])
    with pytest.raises(ValueError, match="all conditionings or none"):
        guided_eps(Model().predictor, [(0.5, Conditioning(CONTEXT, LATENTS)), (0.5, Conditioning(UNCOND))])


def test_fractional_timesteps_pass_through() -> None:
    model = Model()
    guided_eps(model.predictor, classifier_free(CONTEXT, UNCOND, 2.0))(LATENTS, torch.tensor([949.05, 0.5]))
    torch.testing.assert_close(model.calls[0][1], torch.tensor([949.05, 0.5, 949.05, 0.5]))


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_model_is_given_its_conditioning_once_for_all_steps(scale: float) -> None:
    model = Model()
    eps_fn = guided_eps(model.predictor, classifier_free(CONTEXT, UNCOND, scale))
    for _ in range(3):
        eps_fn(LATENTS, TIMESTEPS)
    assert len(model.given) == 1
    assert len(model.calls) == 3


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_rescaled_guidance_is_diffusers(share: float) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    eps_fn = guided_eps(Model().predictor, classifier_free(CONTEXT, UNCOND, 7.5), share)
    plain = guided_eps(Model().predictor, classifier_free(CONTEXT, UNCOND, 7.5))(LATENTS, TIMESTEPS)
    conditional = guided_eps(Model().predictor, [(1.0, Conditioning(CONTEXT))])(LATENTS, TIMESTEPS)
    torch.testing.assert_close(eps_fn(LATENTS, TIMESTEPS), rescale_noise_cfg(plain, conditional, share))
    assert torch.equal(eps_fn(LATENTS, TIMESTEPS), plain) is (share == 0.0)

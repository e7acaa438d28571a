"""Euler and Euler ancestral: against diffusers' schedulers on the same eps, and their order of convergence."""

import math
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.samplers import euler
from ldm.diffusion.samplers.euler import sample_euler, sample_euler_ancestral
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import noise_levels

SCHEDULE = NoiseSchedule()
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def a_prediction(latents: Tensor, timesteps: Tensor) -> Tensor:
    """Depends on the image and the time, and is no fixed point of anything."""
    return torch.tanh(0.8 * latents + timesteps.view(-1, 1, 1, 1) / 1000 - 0.3)


def theirs(scheduler: Any, latents: Tensor, num_steps: int, begin: int, noises: list[Tensor]) -> Tensor:
    """The peer's loop from its own scaling of the same latents."""
    scheduler.set_timesteps(num_steps)
    scheduler.set_begin_index(begin)
    x = latents * (1 + scheduler.sigmas[begin] ** 2) ** 0.5
    for timestep in scheduler.timesteps[begin:]:
        eps = a_prediction(scheduler.scale_model_input(x, timestep), timestep.expand(len(x)))
        x = scheduler.step(eps, timestep, x, **({"generator": None} if noises else {})).prev_sample
    return x


@pytest.mark.parametrize(("num_steps", "begin"), [(1, 0), (5, 0), (5, 4), (20, 1), (50, 0), (50, 10)])
@pytest.mark.parametrize("ancestral", [False, True], ids=["euler", "ancestral"])
def test_latents_are_those_of_diffusers(
    num_steps: int, begin: int, ancestral: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    noises = [torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(i)) for i in range(1, num_steps + 1)]
    kind = "EulerAncestralDiscreteScheduler" if ancestral else "EulerDiscreteScheduler"
    scheduler = getattr(diffusers, kind)(**BETAS, timestep_spacing="leading", steps_offset=1)
    if ancestral:
        fed = list(noises)
        module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: fed.pop(0))
        ours_fed = list(noises)
        monkeypatch.setattr(euler, "draw_noise", lambda *args: ours_fed.pop(0))
    sample = sample_euler_ancestral if ancestral else sample_euler
    ours = sample(a_prediction, latents, SCHEDULE, num_steps=num_steps, start_step=begin)
    expected = theirs(scheduler, latents, num_steps, begin, noises if ancestral else [])
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-5


def test_without_eta_it_is_euler() -> None:
    latents = draw_noise((3, 4, 2, 2), image_generators([5, 6, 7]))
    plain = sample_euler(a_prediction, latents, SCHEDULE, num_steps=6)
    for eta in (0.0, 1.0):
        noise = {"eta": eta, "generator": image_generators([5, 6, 7])}
        sampled = sample_euler_ancestral(a_prediction, latents, SCHEDULE, num_steps=6, **noise)
        assert torch.equal(sampled, plain) is (eta == 0.0)


def test_variance_is_kept_by_an_ancestral_step() -> None:
    for sigma, sigma_next in zip(sigmas := noise_levels(SCHEDULE, 20).sigmas, sigmas[1:], strict=False):
        down, up = euler.ancestral_sigmas(sigma, sigma_next, 1.0)
        assert math.isclose(down**2 + up**2, sigma_next**2, abs_tol=1e-12)


def error_after(num_steps: int) -> float:
    """For data of variance 1/4 the ideal eps is known, and the flow's solution: x ~ sqrt(1/4 + sigma^2)."""

    def ideal_eps(latents: Tensor, timesteps: Tensor) -> Tensor:
        alpha = SCHEDULE.alphas_cumprod.double()[timesteps][:, None, None, None]
        return latents * (1 - alpha).sqrt() / (alpha * 0.25 + 1 - alpha)

    final = sample_euler(ideal_eps, torch.ones(1, 1, 1, 1, dtype=torch.float64), SCHEDULE, num_steps=num_steps)
    start = noise_levels(SCHEDULE, num_steps).sigmas[0]
    exact = (1 + start**2) ** 0.5 * 0.5 / (0.25 + start**2) ** 0.5
    return abs(final.item() - exact)


def test_twice_the_steps_are_half_the_error() -> None:
    ratio = error_after(125) / error_after(250)
    assert 1.7 < ratio < 2.3

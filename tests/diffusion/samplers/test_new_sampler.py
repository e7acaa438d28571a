"""A new sampler is a function and a line in `ldm/choices.py`: the example of docs/extend.md."""

import pytest
import torch
from torch import Tensor

from ldm.choices import Choice
from ldm.diffusion.guidance import EpsFn, classifier_free
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.samplers.euler import sample_euler, spaced_sigmas, start_alpha
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.diffusion.schedule import NoiseSchedule
from tests.oracle import small_ldm

SCHEDULE = NoiseSchedule()


def sample_heun(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    start_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method (arXiv 2206.00364, algorithm 1): latents (b c h w) to latents (b c h w), two calls a step."""
    timesteps, sigmas = schedule.spaced_timesteps(num_steps), spaced_sigmas(schedule, num_steps)

    def slope(x: Tensor, step: int) -> Tensor:
        t = latents.new_full((len(x),), timesteps[num_steps - 1 - step], dtype=torch.int64)
        return eps_fn(x / (1 + sigmas[step] ** 2) ** 0.5, t)

    x = latents * (1 + sigmas[start_step] ** 2) ** 0.5
    for step in range(start_step, num_steps):
        d, h = slope(x, step), sigmas[step + 1] - sigmas[step]
        pred_x0 = x - sigmas[step] * d
        if step < num_steps - 1:  # line 6: the mean of the slopes at both ends
            d = (d + slope(x + h * d, step + 1)) / 2
        x = x + h * d
        if callback:
            callback(step, x / (1 + sigmas[step + 1] ** 2) ** 0.5, pred_x0)
    return x


HEUN = Sampler(sample_heun, start_alpha)


def eps_of_a_normal(latents: Tensor, timesteps: Tensor) -> Tensor:
    """The exact eps where images are normal with standard deviation 0.5."""
    alpha = SCHEDULE.alphas_cumprod[timesteps].view(-1, 1, 1, 1).to(latents)
    return latents * (1 - alpha).sqrt() / (0.25 * alpha + 1 - alpha)


def test_it_is_nearer_to_the_exact_solution_than_euler() -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The solution scales x by the standard deviation of what the latents are made of: x0 and noise.
    sigma = spaced_sigmas(SCHEDULE, 20)[0]
    exact = latents * (1 + sigma**2) ** 0.5 * 0.5 / (0.25 + sigma**2) ** 0.5
    heun, euler = (
        (sample(eps_of_a_normal, latents, SCHEDULE, num_steps=20) - exact).abs().max().item()
        for sample in (sample_heun, sample_euler)
    )
    assert heun < 0.2 * euler


def test_an_entry_loads_it_and_images_are_sampled_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Choice(f"{__name__}:HEUN", "Heun's method, two calls a step")
    monkeypatch.setitem(SAMPLERS, "heun", entry.load())
    context = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(height=64, width=64, num_steps=3, guidance_scale=2.0, sampler="heun")
    images = sample_images(small_ldm(), classifier_free(context, context, 2.0), [0], config)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()

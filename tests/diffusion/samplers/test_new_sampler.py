"""A new sampler is a function and a line in `ldm/choices.py`: the example of docs/extend.md."""

import pytest
import torch
from torch import Tensor

from ldm.choices import Choice
from ldm.diffusion.guidance import EpsFn, classifier_free
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.samplers.euler import sample_euler
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.samplers.sigma_space import Path, run_steps, start_alpha
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels
from tests.oracle import small_ldm

SCHEDULE = NoiseSchedule()


def sample_midpoint(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    start_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver-2 (arXiv 2206.00927, algorithm 1): latents (b c h w) to latents (b c h w), two calls a step."""

    def take_step(step: int, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = path.sigmas[step], path.sigmas[step + 1]
        pred_x0 = path.pred_x0(x, step)
        if sigma_next == 0:
            return pred_x0, pred_x0
        middle = (sigma * sigma_next) ** 0.5  # half a step in log-SNR
        at_middle = x + (middle - sigma) * (x - pred_x0) / sigma
        eps = (at_middle - path.pred_x0_at(at_middle, middle, schedule.timesteps_at(middle, x))) / middle
        return x + (sigma_next - sigma) * eps, pred_x0

    return run_steps(take_step, eps_fn, latents, noise_levels(schedule, num_steps, spacing), start_step, callback)


MIDPOINT = Sampler(sample_midpoint, start_alpha)


def eps_of_a_normal(latents: Tensor, timesteps: Tensor) -> Tensor:
    """The exact eps where images are normal with standard deviation 0.5."""
    log_sigmas, t = torch.from_numpy(SCHEDULE.sigmas()).log(), timesteps.double()
    sigma = torch.lerp(log_sigmas[t.floor().long()], log_sigmas[t.ceil().long()], t.frac()).exp().view(-1, 1, 1, 1)
    return latents * (1 + sigma**2).sqrt() * sigma / (0.25 + sigma**2)


def test_it_is_nearer_to_the_exact_solution_than_euler() -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The solution scales x by the standard deviation of what the latents are made of: x0 and noise.
    sigma = noise_levels(SCHEDULE, 20).sigmas[0]
    exact = latents * (1 + sigma**2) ** 0.5 * 0.5 / (0.25 + sigma**2) ** 0.5
    midpoint, euler = (
        (sample(eps_of_a_normal, latents, SCHEDULE, num_steps=20) - exact).abs().max().item()
        for sample in (sample_midpoint, sample_euler)
    )
    assert midpoint < 0.3 * euler


def test_an_entry_loads_it_and_images_are_sampled_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Choice(f"{__name__}:MIDPOINT", "DPM-Solver-2, two calls a step")
    monkeypatch.setitem(SAMPLERS, "midpoint", entry.load())
    context = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(height=64, width=64, num_steps=3, guidance_scale=2.0, sampler="midpoint")
    images = sample_images(small_ldm(), classifier_free(context, context, 2.0), [0], config)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()

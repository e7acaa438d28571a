"""Heun's method: "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364), algorithm 1.

The paper's symbols and the names here, besides those of `sigma_space.py`:

    d_i, d_i'       slope, slope_ahead: dx / dsigma, where a step begins and where Euler's method would end it
"""

from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.samplers.sigma_space import Path, run_steps, start_alpha
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels


def heun_step(step: int, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """One step of second order; the last one, to sigma 0, is Euler's: (x at its end, pred_x0)."""
    sigma, sigma_next = path.sigmas[step], path.sigmas[step + 1]
    pred_x0 = path.pred_x0(x, step)
    slope = (x - pred_x0) / sigma  # line 4
    ahead = x + (sigma_next - sigma) * slope  # line 5
    if sigma_next == 0:
        return ahead, pred_x0
    slope_ahead = (ahead - path.pred_x0(ahead, step + 1)) / sigma_next  # line 7
    return x + (sigma_next - sigma) * (slope + slope_ahead) / 2, pred_x0  # line 8


def sample_heun(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    start_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w); each step but the last calls `eps_fn` twice. Returns latents (b c h w)."""
    return run_steps(heun_step, eps_fn, latents, noise_levels(schedule, num_steps, spacing), start_step, callback)


HEUN = Sampler(sample_heun, start_alpha)

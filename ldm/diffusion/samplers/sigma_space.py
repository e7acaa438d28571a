"""What samplers share whose latents' variance grows with the noise: the loop over steps, and the prediction in it.

"Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364), section 2, in its symbols:

    x               latents / sqrt(alpha-bar) = x0 + sigma * noise
    sigma           sqrt((1 - alpha-bar) / alpha-bar)
    D(x; sigma)     pred_x0 = x - sigma * eps
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.samplers.sampler import Callback
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, NoiseLevels, noise_levels


@dataclass(frozen=True)
class Path:
    """The levels of a sampler's steps, and the network's prediction at them."""

    eps_fn: EpsFn
    levels: NoiseLevels
    sigmas: list[float]
    """One per step, and 0 after the last."""
    dtype: torch.dtype
    """Of the latents; x is in float32 at least."""

    def pred_x0(self, x: Tensor, step: int) -> Tensor:
        """D(x; sigma) at the level where a step begins, (b c h w)."""
        return self.pred_x0_at(x, self.sigmas[step], self.levels.timesteps_of(step, x))

    def pred_x0_at(self, x: Tensor, sigma: float, timesteps: Tensor) -> Tensor:
        """D(x; sigma) at any level, whose timesteps are (b,)."""
        eps = self.eps_fn((x / (1 + sigma**2) ** 0.5).to(self.dtype), timesteps)
        return x - sigma * eps.to(x.dtype)


Step = Callable[[int, Tensor, Path], tuple[Tensor, Tensor]]
"""(step, x at its beginning, path) -> (x at its end, pred_x0)."""


def run_steps(
    take_step: Step, eps_fn: EpsFn, latents: Tensor, levels: NoiseLevels, start_step: int, callback: Callback | None
) -> Tensor:
    """Latents (b c h w) that enter `start_step` -> latents (b c h w) after the last step."""
    path = Path(eps_fn, levels, levels.sigmas, latents.dtype)
    x = latents.to(torch.promote_types(latents.dtype, torch.float32)) * (1 + path.sigmas[start_step] ** 2) ** 0.5
    for step in range(start_step, len(levels.timesteps)):
        x, pred_x0 = take_step(step, x, path)
        if callback:
            latents_now = x / (1 + path.sigmas[step + 1] ** 2) ** 0.5
            callback(step, latents_now.to(latents.dtype), pred_x0.to(latents.dtype))
    return x.to(latents.dtype)


def start_alpha(schedule: NoiseSchedule, num_steps: int, start_step: int, spacing: str = ORIGINAL) -> float:
    """alpha-bar of the latents that enter `start_step`; 0, pure noise, for the first step."""
    return noise_levels(schedule, num_steps, spacing).alphas[start_step] if start_step > 0 else 0.0

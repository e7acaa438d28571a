"""Euler's method for the probability flow ODE, and its ancestral form, which adds fresh noise in each step.

"Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364), algorithm 1 without its second
order correction; ancestral steps as in "Score-Based Generative Modeling through Stochastic Differential Equations"
(arXiv 2011.13456), appendix F. Both use latents whose variance grows with the noise:

    x               latents / sqrt(alpha-bar) = x0 + sigma * noise
    sigma           sqrt((1 - alpha-bar) / alpha-bar)
    d_i             eps, from eps_fn: the slope dx / dsigma
"""

from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.noise import Generators, draw_noise
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels


def ancestral_sigmas(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """How far down to step from `sigma`, and how much noise to add there, to arrive at `sigma_next`: (down, up)."""
    # Song et al., eq. 47, with eta = 1
    up = eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    return (sigma_next**2 - up**2) ** 0.5, up


def sample_euler_ancestral(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    eta: float = 1.0,
    start_step: int = 0,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w) in `num_steps` - `start_step` calls of `eps_fn`; returns latents (b c h w).

    `eta` is the share of the ancestral noise, 0 to 1; `generator` is for it; a sequence holds one generator per image.
    """
    levels = noise_levels(schedule, num_steps, spacing)
    sigmas = levels.sigmas
    x = latents.to(torch.promote_types(latents.dtype, torch.float32)) * (1 + sigmas[start_step] ** 2) ** 0.5
    for step in range(start_step, num_steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        down, up = ancestral_sigmas(sigma, sigma_next, eta)
        timesteps = levels.timesteps_of(step, latents)
        eps = eps_fn((x / (1 + sigma**2) ** 0.5).to(latents.dtype), timesteps).to(x.dtype)
        pred_x0 = x - sigma * eps
        # algorithm 1, lines 4 and 5: d_i is eps
        x = x + (down - sigma) * eps
        if up > 0:
            x = x + up * draw_noise(x.shape, generator, x.device)
        if callback:
            callback(step, (x / (1 + sigma_next**2) ** 0.5).to(latents.dtype), pred_x0.to(latents.dtype))
    return x.to(latents.dtype)


def sample_euler(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    start_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w) as `sample_euler_ancestral` does without its noise."""
    options: dict[str, Any] = {"num_steps": num_steps, "spacing": spacing, "start_step": start_step}
    return sample_euler_ancestral(eps_fn, latents, schedule, **options, eta=0.0, callback=callback)


def start_alpha(schedule: NoiseSchedule, num_steps: int, start_step: int, spacing: str = ORIGINAL) -> float:
    """alpha-bar of the latents that enter `start_step`; 0, pure noise, for the first step."""
    return 1.0 / (1.0 + noise_levels(schedule, num_steps, spacing).sigmas[start_step] ** 2) if start_step > 0 else 0.0


EULER = Sampler(sample_euler, start_alpha)
EULER_ANCESTRAL = Sampler(sample_euler_ancestral, start_alpha, default_eta=1.0, stochastic=True)

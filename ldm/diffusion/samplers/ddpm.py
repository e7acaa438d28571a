"""DDPM's ancestral sampling: "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239), algorithm 2.

On fewer steps than timesteps as "Improved DDPM" (arXiv 2102.09672), section 4: betas of the visited timesteps alone.

    x_t             latents
    alpha-bar_t     alpha; alpha_prev after the step
    beta_t          beta = 1 - alpha / alpha_prev
    beta-tilde_t    variance of the posterior q(x_(t-1) | x_t, x_0)
"""

import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.noise import Generators, step_noise
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.samplers.sigma_space import start_alpha
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels


def posterior(x: Tensor, pred_x0: Tensor, alpha: float, alpha_prev: float) -> tuple[Tensor, float]:
    """Mean (b c h w) and variance of q(x_(t-1) | x_t, x_0): DDPM, eq. 7."""
    beta = 1 - alpha / alpha_prev
    mean = (alpha_prev**0.5 * beta * pred_x0 + (1 - beta) ** 0.5 * (1 - alpha_prev) * x) / (1 - alpha)
    return mean, beta * (1 - alpha_prev) / (1 - alpha)


def sample_ddpm(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    start_step: int = 0,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w) in `num_steps` - `start_step` calls of `eps_fn`; returns latents (b c h w).

    `generator` is for the noise of all steps but the last; a sequence holds one generator per image.
    """
    levels = noise_levels(schedule, num_steps, spacing)
    alphas = [*levels.alphas, 1.0]
    x = latents.to(torch.promote_types(latents.dtype, torch.float32))
    for step in range(start_step, num_steps):
        eps = eps_fn(x.to(latents.dtype), levels.timesteps_of(step, x)).to(x.dtype)
        pred_x0 = (x - (1 - alphas[step]) ** 0.5 * eps) / alphas[step] ** 0.5
        x, variance = posterior(x, pred_x0, alphas[step], alphas[step + 1])
        if variance > 0:
            x = x + variance**0.5 * step_noise(x.shape, generator, step, x.device)
        if callback:
            callback(step, x.to(latents.dtype), pred_x0.to(latents.dtype))
    return x.to(latents.dtype)


DDPM = Sampler(sample_ddpm, start_alpha, stochastic=True)

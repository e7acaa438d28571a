"""DDIM: "Denoising Diffusion Implicit Models" (arXiv 2010.02502).

The paper's symbols and the names here:

    x_t             latents
    eps_theta       eps, from eps_fn
    alpha_t         alpha: the paper's alpha is DDPM's alpha-bar
    sigma_t         sigma, from eta (eq. 16)
"""

import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.noise import Generators, draw_noise
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels


def ddim_step(
    latents: Tensor, eps: Tensor, alpha: float, alpha_prev: float, eta: float = 0.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step from alpha-bar `alpha` to `alpha_prev`: (prev, pred_x0), (b c h w) each, in the dtype of `latents`.

    Computed in float32 at least; `noise` is needed where `eta` > 0.
    """
    x, e = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (latents, eps))
    # eq. 16
    sigma = eta * ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)) ** 0.5
    # eq. 12: "predicted x0", "direction pointing to x_t", "random noise"
    pred_x0 = (x - (1 - alpha) ** 0.5 * e) / alpha**0.5
    direction = max(1 - alpha_prev - sigma**2, 0.0) ** 0.5 * e
    prev = alpha_prev**0.5 * pred_x0 + direction
    if noise is not None:
        prev = prev + sigma * noise
    return prev.to(latents.dtype), pred_x0.to(latents.dtype)


def sample_ddim(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    eta: float = 0.0,
    start_step: int = 0,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w) in `num_steps` - `start_step` calls of `eps_fn`; returns latents (b c h w).

    With `start_step` > 0, `latents` are noised to where that step begins (`start_alpha`). `generator` is for
    the noise of `eta` > 0; a sequence holds one generator per image.
    """
    levels = noise_levels(schedule, num_steps, spacing)
    alphas = [*levels.alphas, levels.end_alpha]
    for step in range(start_step, num_steps):
        eps = eps_fn(latents, levels.timesteps_of(step, latents))
        noise = draw_noise(latents.shape, generator, latents.device) if eta > 0 else None
        latents, pred_x0 = ddim_step(latents, eps, alphas[step], alphas[step + 1], eta, noise)
        if callback:
            callback(step, latents, pred_x0)
    return latents


def start_alpha(schedule: NoiseSchedule, num_steps: int, start_step: int, spacing: str = ORIGINAL) -> float:
    """alpha-bar of the latents that enter `start_step`; 0, pure noise, for the first step.

    With the original's spacing as the original: latents are noised to one step further up than the timestep at which
    denoising begins.
    """
    above = 1 if spacing == ORIGINAL else 0
    return noise_levels(schedule, num_steps, spacing).alphas[start_step - above] if start_step > 0 else 0.0


DDIM = Sampler(sample_ddim, start_alpha, default_eta=0.0, stochastic=True)

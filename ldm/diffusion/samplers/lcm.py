"""Multistep consistency sampling: "Latent Consistency Models" (arXiv 2310.04378), algorithm 3, for distilled models.

Each step predicts clean latents and noises them to the next level: meant for weights distilled for it, in 2 to 8
steps. Boundary conditions c_skip and c_out as the authors', with sigma_data 0.5 and timesteps scaled by 10.
"""

import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.noise import Generators, step_noise
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, NoiseLevels, noise_levels

SIGMA_DATA, TIMESTEP_SCALE = 0.5, 10.0
DISTILLED_STEPS = 50
"""The authors distil at every 20th timestep from the last one on; with more steps than that it is plain trailing."""


def lcm_levels(schedule: NoiseSchedule, num_steps: int, spacing: str = ORIGINAL) -> NoiseLevels:
    """Without a spacing of its own, timesteps at which the model was distilled, evenly chosen."""
    if spacing != ORIGINAL or num_steps > DISTILLED_STEPS or schedule.num_timesteps < DISTILLED_STEPS:
        return noise_levels(schedule, num_steps, "trailing" if spacing == ORIGINAL else spacing)
    all_levels = noise_levels(schedule, DISTILLED_STEPS, "trailing")
    chosen = [step * DISTILLED_STEPS // num_steps for step in range(num_steps)]
    return NoiseLevels([all_levels.timesteps[i] for i in chosen], [all_levels.alphas[i] for i in chosen])


def sample_lcm(
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
    levels = lcm_levels(schedule, num_steps, spacing)
    alphas = [*levels.alphas, 1.0]
    x = latents.to(torch.promote_types(latents.dtype, torch.float32))
    for step in range(start_step, num_steps):
        eps = eps_fn(x.to(latents.dtype), levels.timesteps_of(step, x)).to(x.dtype)
        scaled = TIMESTEP_SCALE * levels.timesteps[step]
        c_skip, c_out = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2), scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
        pred_x0 = c_skip * x + c_out * (x - (1 - alphas[step]) ** 0.5 * eps) / alphas[step] ** 0.5
        x = alphas[step + 1] ** 0.5 * pred_x0
        if alphas[step + 1] < 1:
            x = x + (1 - alphas[step + 1]) ** 0.5 * step_noise(x.shape, generator, step, x.device)
        if callback:
            callback(step, x.to(latents.dtype), pred_x0.to(latents.dtype))
    return x.to(latents.dtype)


def start_alpha(schedule: NoiseSchedule, num_steps: int, start_step: int, spacing: str = ORIGINAL) -> float:
    """alpha-bar of the latents that enter `start_step`; 0, pure noise, for the first step."""
    return lcm_levels(schedule, num_steps, spacing).alphas[start_step] if start_step > 0 else 0.0


LCM = Sampler(sample_lcm, start_alpha, stochastic=True)

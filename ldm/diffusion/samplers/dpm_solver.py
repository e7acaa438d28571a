"""DPM-Solver++(2M): "DPM-Solver++: Fast Solver for Guided Sampling" (arXiv 2211.01095), algorithm 2.

The paper's symbols and the names here:

    t           t in (0, 1]; timestep n is at (n + 1) / 1000
    alpha_t     alpha = sqrt(alpha-bar)
    sigma_t     sigma = sqrt(1 - alpha^2)
    lambda_t    log_snr = log(alpha / sigma)
    x_theta     pred_x0
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels

FIRST_ORDER_END_BELOW = 15
"""With fewer steps than this the last one is of first order, which is more stable; as in the authors' code."""


class Point(NamedTuple):
    """A point of the time grid; `timestep`, the network's input, may be a fraction."""

    timestep: float
    alpha: float
    sigma: float
    log_snr: float


def time_grid(schedule: NoiseSchedule, num_steps: int, spacing: str = ORIGINAL) -> list[Point]:
    """`num_steps` + 1 points, uniform in time, from almost pure noise to one timestep of noise.

    That is the authors' grid. Those of other spacings end without noise.
    """
    if spacing != ORIGINAL:
        levels = noise_levels(schedule, num_steps, spacing)
        return [
            *(
                Point(t, alpha**0.5, (1 - alpha) ** 0.5, 0.5 * math.log(alpha / (1 - alpha)))
                for t, alpha in zip(levels.timesteps, levels.alphas, strict=True)
            ),
            Point(0.0, 1.0, 0.0, math.inf),
        ]
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise ValueError(f"num_steps should be from 1 to {schedule.num_timesteps}, not {num_steps}")
    n = schedule.num_timesteps
    log_alphas = 0.5 * schedule.alphas_cumprod.double().log().numpy()
    times = np.linspace(1.0, 1.0 / n, num_steps + 1)
    points = []
    for t, log_alpha in zip(times, np.interp(times, np.arange(1, n + 1) / n, log_alphas), strict=True):
        alpha = math.exp(log_alpha)
        sigma = math.sqrt(1.0 - alpha**2)
        points.append(Point(n * (t - 1.0 / n), alpha, sigma, log_alpha - math.log(sigma)))
    return points


def dpm_solver_step(
    latents: Tensor, pred_x0: Tensor, previous_x0: Tensor | None, previous: Point, current: Point, target: Point
) -> Tensor:
    """The latents (b c h w) at `target`, from those at `current`: second order with `previous_x0`, else first."""
    h = target.log_snr - current.log_snr
    d = pred_x0
    if previous_x0 is not None:
        # algorithm 2, line 8, with r = (lambda_current - lambda_previous) / h
        d = pred_x0 + (pred_x0 - previous_x0) * (h / (2 * (current.log_snr - previous.log_snr)))
    # algorithm 2, line 9
    return (target.sigma / current.sigma) * latents - target.alpha * math.expm1(-h) * d


def sample_dpm_solver(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    start_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w) in `num_steps` - `start_step` calls of `eps_fn`; returns latents (b c h w)."""
    grid = time_grid(schedule, num_steps, spacing)
    x = latents.to(torch.promote_types(latents.dtype, torch.float32))
    previous_x0 = None
    for step in range(start_step, num_steps):
        point = grid[step]
        eps = eps_fn(x.to(latents.dtype), x.new_full((len(x),), point.timestep, dtype=torch.float32)).to(x.dtype)
        pred_x0 = (x - point.sigma * eps) / point.alpha
        if step == num_steps - 1 and (num_steps < FIRST_ORDER_END_BELOW or grid[-1].sigma == 0):
            previous_x0 = None
        x = dpm_solver_step(x, pred_x0, previous_x0, grid[step - 1], point, grid[step + 1])
        previous_x0 = pred_x0
        if callback:
            callback(step, x.to(latents.dtype), pred_x0.to(latents.dtype))
    return x.to(latents.dtype)


def start_alpha(schedule: NoiseSchedule, num_steps: int, start_step: int, spacing: str = ORIGINAL) -> float:
    """alpha-bar of the latents that enter `start_step`; 0, pure noise, for the first step."""
    return time_grid(schedule, num_steps, spacing)[start_step].alpha ** 2 if start_step > 0 else 0.0


DPM_SOLVER = Sampler(sample_dpm_solver, start_alpha)

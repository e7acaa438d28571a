"""Which noise levels a sampler visits: a timestep and an alpha-bar for each step, from almost pure noise down.

The original's timesteps; `leading` and `trailing` of "Common Diffusion Noise Schedules and Sample Steps are Flawed"
(arXiv 2305.08891, section 3.3); Karras' ("Elucidating the Design Space of Diffusion-Based Generative Models", arXiv
2206.00364, eq. 5); and levels whose logarithms are evenly spaced. Noise is measured as there:

    sigma           sqrt((1 - alpha-bar) / alpha-bar)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ldm import choices
from ldm.diffusion.schedule import NoiseSchedule

ORIGINAL = "original"
RHO = 7.0
"""Karras et al., table 1: how much denser the levels are where there is little noise."""


@dataclass(frozen=True)
class NoiseLevels:
    """The levels at which the steps of a sampler begin, descending."""

    timesteps: Sequence[int | float]
    """The network's input; a fraction lies between two timesteps."""
    alphas: Sequence[float]
    """alpha-bar."""
    end_alpha: float = 1.0
    """alpha-bar after the last step in DDIM and PLMS, which end at the first timestep's noise in the original."""

    @property
    def sigmas(self) -> list[float]:
        """One per step, and 0 after the last."""
        return [*(((1 - alpha) / alpha) ** 0.5 for alpha in self.alphas), 0.0]

    def timesteps_of(self, step: int, latents: Tensor) -> Tensor:
        """The timestep at which a step begins, (b,), on the device of latents (b c h w)."""
        t = self.timesteps[step]
        return latents.new_full((len(latents),), t, dtype=torch.int64 if isinstance(t, int) else torch.float32)


Spacing = Callable[[NoiseSchedule, int], NoiseLevels]
"""(schedule, num_steps) -> the levels of so many steps."""


def noise_levels(schedule: NoiseSchedule, num_steps: int, spacing: str = ORIGINAL) -> NoiseLevels:
    """The levels of a spacing by its name. Raises `ValueError` if there are not so many."""
    if not 1 <= num_steps <= schedule.num_timesteps:
        raise ValueError(f"num_steps should be from 1 to {schedule.num_timesteps}, not {num_steps}")
    levels: NoiseLevels = choices.SPACINGS[spacing].load()(schedule, num_steps)
    return levels


def original(schedule: NoiseSchedule, num_steps: int) -> NoiseLevels:
    """The original code's, for any number of steps."""
    alphas, alphas_prev = schedule.spaced_alphas(num_steps)
    return NoiseLevels(schedule.spaced_timesteps(num_steps)[::-1], alphas[::-1], alphas_prev[0])


def leading(schedule: NoiseSchedule, num_steps: int) -> NoiseLevels:
    """Every `1000 // num_steps`-th timestep from 1 on: the original's where `num_steps` divides 1000."""
    ratio, offset = schedule.num_timesteps // num_steps, 1 if num_steps < schedule.num_timesteps else 0
    levels = _at_timesteps(schedule, [i * ratio + offset for i in reversed(range(num_steps))])
    return NoiseLevels(levels.timesteps, levels.alphas, schedule.alphas_cumprod[0].item())


def trailing(schedule: NoiseSchedule, num_steps: int) -> NoiseLevels:
    """Evenly down from the last timestep, which has the most noise."""
    total = schedule.num_timesteps
    return _at_timesteps(schedule, [round(total - i * total / num_steps) - 1 for i in range(num_steps)])


def karras(schedule: NoiseSchedule, num_steps: int) -> NoiseLevels:
    """Even in sigma^(1/7), eq. 5: from the last timestep to the first."""
    sigmas = schedule.sigmas()
    ramp = np.linspace(sigmas[-1] ** (1 / RHO), sigmas[0] ** (1 / RHO), num_steps)
    return _at_sigmas(sigmas, ramp**RHO)


def exponential(schedule: NoiseSchedule, num_steps: int) -> NoiseLevels:
    """Even in log(sigma): from the last timestep to the first."""
    sigmas = schedule.sigmas()
    return _at_sigmas(sigmas, np.exp(np.linspace(np.log(sigmas[-1]), np.log(sigmas[0]), num_steps)))


def _at_timesteps(schedule: NoiseSchedule, timesteps: list[int]) -> NoiseLevels:
    if any(later >= earlier for earlier, later in pairwise(timesteps)):
        raise ValueError(f"{len(timesteps)} steps visit a timestep twice with this spacing")
    return NoiseLevels(timesteps, [schedule.alphas_cumprod[t].item() for t in timesteps])


def _at_sigmas(all_sigmas: np.ndarray, sigmas: np.ndarray) -> NoiseLevels:
    """Each with its timestep, interpolated in log(sigma)."""
    timesteps = np.interp(np.log(sigmas), np.log(all_sigmas), np.arange(len(all_sigmas)))
    return NoiseLevels(timesteps.tolist(), (1 / (1 + sigmas**2)).tolist())

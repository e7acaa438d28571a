"""A sampler is a function over (eps_fn, latents, schedule): it knows nothing of prompts, guidance or pictures."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.samplers import ddim, dpm_solver
from ldm.diffusion.samplers.ddim import Callback, sample_ddim
from ldm.diffusion.samplers.dpm_solver import sample_dpm_solver
from ldm.diffusion.samplers.plms import sample_plms
from ldm.diffusion.schedule import NoiseSchedule

__all__ = [
    "SAMPLERS",
    "Callback",
    "Sampler",
    "img2img_start",
    "img2img_steps",
    "sample_ddim",
    "sample_dpm_solver",
    "sample_plms",
]


@dataclass(frozen=True)
class Sampler:
    """A sampling function, how noisy the latents are that enter at its `start_step`, and whether it takes an eta."""

    sample: Callable[..., Tensor]
    start_alpha: Callable[[NoiseSchedule, int, int], float]
    takes_eta: bool = False


SAMPLERS = {
    "ddim": Sampler(sample_ddim, ddim.start_alpha, takes_eta=True),
    "plms": Sampler(sample_plms, ddim.start_alpha),
    "dpm-solver": Sampler(sample_dpm_solver, dpm_solver.start_alpha),
}


def img2img_steps(num_steps: int, strength: float) -> int:
    """How many of the steps are run: the share `strength` in [0, 1] of them, whole and rounded down."""
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength should be from 0 to 1, not {strength}")
    return int(strength * num_steps + 1e-9)


def img2img_start(sampler: Sampler, schedule: NoiseSchedule, num_steps: int, strength: float) -> tuple[int, float]:
    """Where to begin so that the share `strength` in [0, 1] of the steps is run: (start_step, alpha-bar to noise to).

    SDEdit (arXiv 2108.01073). Strength 0 runs no step on the untouched latents, strength 1 all of them on pure noise.
    """
    start_step = num_steps - img2img_steps(num_steps, strength)
    if start_step == num_steps:
        return start_step, 1.0
    return start_step, sampler.start_alpha(schedule, num_steps, start_step)

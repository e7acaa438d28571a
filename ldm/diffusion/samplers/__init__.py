"""The samplers by name, and where img2img enters them."""

from ldm import choices
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL

__all__ = ["SAMPLERS", "Callback", "Sampler", "img2img_start", "img2img_steps"]

SAMPLERS: dict[str, Sampler] = {name: choice.load() for name, choice in choices.SAMPLERS.items()}


def img2img_steps(num_steps: int, strength: float) -> int:
    """How many of the steps are run: the share `strength` in [0, 1] of them, whole and rounded down."""
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength should be from 0 to 1, not {strength}")
    return int(strength * num_steps + 1e-9)


def img2img_start(
    sampler: Sampler, schedule: NoiseSchedule, num_steps: int, strength: float, spacing: str = ORIGINAL
) -> tuple[int, float]:
    """Where to begin so that the share `strength` in [0, 1] of the steps is run: (start_step, alpha-bar to noise to).

    SDEdit (arXiv 2108.01073). Strength 0 runs no step on the untouched latents, strength 1 all of them on pure noise.
    """
    start_step = num_steps - img2img_steps(num_steps, strength)
    if start_step == num_steps:
        return start_step, 1.0
    return start_step, sampler.start_alpha(schedule, num_steps, start_step, spacing)

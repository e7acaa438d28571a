"""What a sampler is: a function over (eps_fn, latents, schedule). It knows nothing of prompts, guidance or images."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ldm.diffusion.schedule import NoiseSchedule

Callback = Callable[[int, Tensor, Tensor], None]
"""Called after each step with (step, latents, pred_x0)."""


@dataclass(frozen=True)
class Sampler:
    """A sampling function and its properties."""

    sample: Callable[..., Tensor]
    """`sample(eps_fn, latents, schedule, *, num_steps, spacing, start_step, callback)`, and the arguments below."""
    start_alpha: Callable[[NoiseSchedule, int, int, str], float]
    """(schedule, num_steps, start_step, spacing) -> alpha-bar of the latents that enter `start_step`; 0 is noise."""
    default_eta: float | None = None
    """The default of its argument `eta`, the share of fresh noise; None: it has no such argument."""
    stochastic: bool = False
    """Whether it may add noise in a step, and so takes an argument `generator`."""

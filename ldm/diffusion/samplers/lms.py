"""Linear multistep: Adams-Bashforth for unequal steps, of as high an order as the earlier slopes allow, up to four.

Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section III.5, eq. 5.2, for the probability flow
ODE dx / dsigma = (x - D(x; sigma)) / sigma of arXiv 2206.00364, eq. 3 (`sigma_space.py`).
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.samplers.sigma_space import Path, run_steps, start_alpha
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels

ORDER = 4


def weights_of_slopes(nodes: Sequence[float], end: float) -> list[float]:
    """What each slope counts: the integral of its Lagrange polynomial over `nodes`, from the first node to `end`."""
    step = end - nodes[0]
    scaled = [(node - nodes[0]) / step for node in nodes]  # the step is from 0 to 1: coefficients stay small
    weights = []
    for node in scaled:
        polynomial = np.polynomial.Polynomial([1.0])
        for other in scaled:
            if other != node:
                polynomial *= np.polynomial.Polynomial([-other, 1.0])
        weights.append(step * float(polynomial.integ()(1.0) / polynomial(node)))
    return weights


def sample_lms(
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
    slopes: list[Tensor] = []  # the latest first

    def take_step(step: int, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        pred_x0 = path.pred_x0(x, step)
        slopes.insert(0, (x - pred_x0) / path.sigmas[step])
        del slopes[ORDER:]
        weights = weights_of_slopes([path.sigmas[step - i] for i in range(len(slopes))], path.sigmas[step + 1])
        for weight, slope in zip(weights, slopes, strict=True):
            x = x + weight * slope
        return x, pred_x0

    return run_steps(take_step, eps_fn, latents, noise_levels(schedule, num_steps, spacing), start_step, callback)


LMS = Sampler(sample_lms, start_alpha)

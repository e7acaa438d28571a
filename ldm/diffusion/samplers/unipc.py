"""UniPC of second order: "UniPC: A Unified Predictor-Corrector Framework" (arXiv 2302.04867), section 3.

With data prediction and B(h) = e^h - 1 (B_2 in the paper). A step is predicted (UniP-2); the network's prediction at
its end, which the next step needs anyway, then corrects it (UniC-2), at no further call. In the symbols of
`sigma_space.py`:

    h               -log(sigma / sigma_next): the paper's, negative as data prediction has it
    r_1             (log-SNR before - log-SNR now) / (log-SNR next - log-SNR now): negative
    D_m / r_m       differences: (D at another point - D now) / r
"""

import math

import numpy as np
from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.samplers.sigma_space import Path, run_steps, start_alpha
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels


def corrector_weights(h: float, ratios: list[float]) -> list[float]:
    """How much each difference counts: R_p(h)^-1 phi_p(h) / B(h); 1/2 if there is one, as in the authors' code."""
    if len(ratios) == 1:
        return [0.5]
    phi, right = math.expm1(h) / h, []
    for k in range(1, len(ratios) + 1):
        phi = (phi - 1 / math.factorial(k)) / h  # phi_(k+1) from phi_k
        right.append(phi * math.factorial(k) * h / math.expm1(h))
    left = np.vander(ratios, increasing=True).T  # row k holds r^k
    return np.linalg.solve(left, right).tolist()


def sample_unipc(
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
    before: list[Tensor] = []  # x at the beginning of the step before
    predictions: list[Tensor] = []  # D at the beginnings of the steps before, the latest first

    def ratio(path: Path, step: int) -> float:
        """r_1 of a step that has one before it."""
        sigma = path.sigmas[step]
        return math.log(sigma / path.sigmas[step - 1]) / math.log(sigma / path.sigmas[step + 1])

    def take_step(step: int, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        pred_x0 = path.pred_x0(x, step)
        if predictions:  # UniC: the step before once more, with the prediction at its end
            x = correct(step - 1, path, pred_x0)
        before[:] = [x]
        predictions.insert(0, pred_x0)
        del predictions[2:]
        d = pred_x0
        if len(predictions) == 2 and path.sigmas[step + 1] > 0:  # UniP
            d = pred_x0 + 0.5 * (predictions[1] - pred_x0) / ratio(path, step)
        kept = path.sigmas[step + 1] / path.sigmas[step]
        return kept * x + (1 - kept) * d, pred_x0

    def correct(step: int, path: Path, at_end: Tensor) -> Tensor:
        now, kept = predictions[0], path.sigmas[step + 1] / path.sigmas[step]
        ratios, differences = [1.0], [at_end - now]
        if len(predictions) == 2:
            ratios.insert(0, ratio(path, step))
            differences.insert(0, (predictions[1] - now) / ratios[0])
        weights = corrector_weights(math.log(kept), ratios)
        d = now + sum(weight * difference for weight, difference in zip(weights, differences, strict=True))
        return kept * before[0] + (1 - kept) * d

    return run_steps(take_step, eps_fn, latents, noise_levels(schedule, num_steps, spacing), start_step, callback)


UNIPC = Sampler(sample_unipc, start_alpha)

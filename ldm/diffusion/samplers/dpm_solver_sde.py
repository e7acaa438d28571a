"""DPM-Solver++ for the reverse SDE: "DPM-Solver++" (arXiv 2211.01095), its SDE solvers of second order.

2M uses the prediction of the step before, the other one a prediction half a step ahead. In the symbols of
`sigma_space.py`, where the paper's sigma_t / alpha_t is sigma:

    h               log(sigma / sigma_next): how far a step goes in log-SNR
    eta             share of the SDE's noise: 1 is the paper's, 0 the ODE of DPM-Solver++

With data prediction D, which is linear in log-SNR between two predictions, a step is solved exactly but for D.
"""

import math

from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.noise import Generators, step_noise
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.samplers.sigma_space import Path, run_steps, start_alpha
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels


def sde_step(x: Tensor, d: Tensor, sigma: float, sigma_next: float, eta: float) -> Tensor:
    """The mean of x at `sigma_next` while the prediction `d` is constant: SDE-DPM-Solver++1."""
    kept = (sigma_next / sigma) ** (1 + eta)  # e^(-h (1 + eta))
    return kept * x + (1 - kept) * d


def noise_scale(sigma: float, sigma_next: float, eta: float) -> float:
    """Standard deviation of the noise that a step adds, sigma_next * sqrt(1 - e^(-2 eta h))."""
    return sigma_next * max(0.0, 1 - (sigma_next / sigma) ** (2 * eta)) ** 0.5


def sample_dpm_solver_2m_sde(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    eta: float = 1.0,
    start_step: int = 0,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w) in `num_steps` - `start_step` calls of `eps_fn`; returns latents (b c h w).

    SDE-DPM-Solver++(2M). `generator` is for the noise of `eta` > 0; a sequence holds one generator per image.
    """
    earlier: list[Tensor] = []

    def take_step(step: int, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = path.sigmas[step], path.sigmas[step + 1]
        pred_x0 = d = path.pred_x0(x, step)
        if earlier and sigma_next > 0:
            ratio = math.log(path.sigmas[step - 1] / sigma) / math.log(sigma / sigma_next)  # r
            d = pred_x0 + (pred_x0 - earlier[0]) / (2 * ratio)
        earlier[:] = [pred_x0]
        x = sde_step(x, d, sigma, sigma_next, eta)
        if (scale := noise_scale(sigma, sigma_next, eta)) > 0:
            x = x + scale * step_noise(x.shape, generator, step, x.device)
        return x, pred_x0

    return run_steps(take_step, eps_fn, latents, noise_levels(schedule, num_steps, spacing), start_step, callback)


def sample_dpm_solver_sde(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    eta: float = 1.0,
    start_step: int = 0,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w); each step but the last calls `eps_fn` twice. Returns latents (b c h w).

    A step with the prediction at its middle in log-SNR. The noise up to there is part of that of the whole step, as on
    one path of the SDE. `generator` is for the noise of `eta` > 0; a sequence holds one generator per image.
    """

    def take_step(step: int, x: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = path.sigmas[step], path.sigmas[step + 1]
        pred_x0 = path.pred_x0(x, step)
        if sigma_next == 0:
            return pred_x0, pred_x0
        middle = (sigma * sigma_next) ** 0.5
        noise: Tensor | float = 0.0
        at_middle = sde_step(x, pred_x0, sigma, middle, eta)
        if eta > 0:
            noise = noise_scale(sigma, middle, eta) * step_noise(x.shape, generator, step, x.device)
            at_middle = at_middle + noise
            noise = (sigma_next / middle) ** (1 + eta) * noise
            noise = noise + noise_scale(middle, sigma_next, eta) * step_noise(x.shape, generator, step, x.device, 1)
        d = path.pred_x0_at(at_middle, middle, schedule.timesteps_at(middle, x))
        return sde_step(x, d, sigma, sigma_next, eta) + noise, pred_x0

    return run_steps(take_step, eps_fn, latents, noise_levels(schedule, num_steps, spacing), start_step, callback)


DPM_SOLVER_2M_SDE = Sampler(sample_dpm_solver_2m_sde, start_alpha, default_eta=1.0, stochastic=True)
DPM_SOLVER_SDE = Sampler(sample_dpm_solver_sde, start_alpha, default_eta=1.0, stochastic=True)

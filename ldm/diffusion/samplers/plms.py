"""PLMS: "Pseudo Numerical Methods for Diffusion Models on Manifolds" (PNDM, arXiv 2202.09778).

Each step is a deterministic DDIM step (the paper's eq. 11) with an eps extrapolated from those of earlier steps; the
first is a Heun step.
"""

from torch import Tensor

from ldm.diffusion.guidance import EpsFn
from ldm.diffusion.samplers.ddim import ddim_step, start_alpha
from ldm.diffusion.samplers.sampler import Callback, Sampler
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import ORIGINAL, noise_levels


def multistep_eps(eps: Tensor, earlier: list[Tensor]) -> Tensor:
    """Adams-Bashforth of as high an order as the earlier eps (latest first) allow, up to four (PNDM, eq. 12)."""
    match earlier:
        case [e1]:
            return (3 * eps - e1) / 2
        case [e1, e2]:
            return (23 * eps - 16 * e1 + 5 * e2) / 12
        case [e1, e2, e3]:
            return (55 * eps - 59 * e1 + 37 * e2 - 9 * e3) / 24
    raise ValueError(f"one to three earlier eps are needed, not {len(earlier)}")


def sample_plms(
    eps_fn: EpsFn,
    latents: Tensor,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    spacing: str = ORIGINAL,
    start_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """Denoises latents (b c h w) as `sample_ddim` does with eta 0; the first step calls `eps_fn` twice."""
    levels = noise_levels(schedule, num_steps, spacing)
    alphas = [*levels.alphas, levels.end_alpha]

    def eps_at(x: Tensor, step: int) -> Tensor:
        return eps_fn(x, levels.timesteps_of(min(step, num_steps - 1), x))

    earlier: list[Tensor] = []
    for step in range(start_step, num_steps):
        eps = eps_at(latents, step)
        if earlier:
            eps_prime = multistep_eps(eps, earlier)
        else:  # Heun: the mean of the slopes at both ends of the step
            ahead, _ = ddim_step(latents, eps, alphas[step], alphas[step + 1])
            eps_prime = (eps + eps_at(ahead, step + 1)) / 2
        latents, pred_x0 = ddim_step(latents, eps_prime, alphas[step], alphas[step + 1])
        earlier = [eps, *earlier[:2]]
        if callback:
            callback(step, latents, pred_x0)
    return latents


PLMS = Sampler(sample_plms, start_alpha)

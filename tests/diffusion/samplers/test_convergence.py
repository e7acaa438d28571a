"""The order with which each sampler converges, on a problem with a known solution: images that are normal."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedule import NoiseSchedule
from ldm.diffusion.spacing import noise_levels

SCHEDULE = NoiseSchedule()
SPREAD = 0.5
"""Standard deviation of an image's latents."""
ORDERS = {
    "ddim": 1.0, "euler": 1.0, "plms": 2.0, "heun": 2.0, "dpm-solver": 2.0, "unipc": 2.0, "lms": 2.0,
    "dpm-solver-2m-sde": 2.0, "dpm-solver-sde": 2.0,
}  # fmt: skip
"""At least. LMS and PLMS begin with a step of lower order, which limits them."""


def ideal_eps(latents: Tensor, timesteps: Tensor) -> Tensor:
    """E[noise | latents] for images of variance SPREAD^2; between timesteps log(sigma) is a line."""
    log_sigmas = torch.from_numpy(SCHEDULE.sigmas()).log()
    t = timesteps.double().clamp(0, 999)
    low = t.floor().long().clamp(max=998)
    sigma = torch.lerp(log_sigmas[low], log_sigmas[low + 1], t - low).exp().view(-1, 1, 1, 1)
    return latents * (1 + sigma**2).sqrt() * sigma / (SPREAD**2 + sigma**2)


def error_at_the_last_level(name: str, num_steps: int, **options: Any) -> float:
    """Of the ODE at the last level, where the exact solution has scaled x by the standard deviations' ratio."""
    found: list[Tensor] = []
    SAMPLERS[name].sample(
        ideal_eps,
        torch.ones(1, 1, 1, 1, dtype=torch.float64),
        SCHEDULE,
        num_steps=num_steps,
        spacing="exponential",
        callback=lambda step, x, pred_x0: found.append(x),
        **options,
    )
    start, end = (noise_levels(SCHEDULE, num_steps, "exponential").sigmas[i] for i in (0, num_steps - 1))
    exact = (1 + start**2) ** 0.5 * ((SPREAD**2 + end**2) / (SPREAD**2 + start**2)) ** 0.5
    return abs(found[-2].item() * (1 + end**2) ** 0.5 - exact)


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str) -> None:
    options = {"eta": 0.0} if SAMPLERS[name].default_eta is not None else {}
    coarse, fine = (error_at_the_last_level(name, num_steps, **options) for num_steps in (41, 81))
    assert math.log2(coarse / fine) > ORDERS[name] - 0.2


@pytest.mark.parametrize(
    ("name", "order"), [("dpm-solver-2m-sde", 2.0), ("dpm-solver-sde", 2.0), ("euler-ancestral", 1.0), ("ddpm", 1.0)]
)
def test_weak_order_of_the_samplers_with_noise(name: str, order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variance of the images that they sample: the sum of the squares of what each noise alone is turned into."""

    def error(num_steps: int) -> float:
        draws = iter(range(1, 2 * num_steps + 1))

        def unit(*args: Any) -> Tensor:
            """Image k of the batch gets the k-th draw of noise and no other."""
            noise = torch.zeros(2 * num_steps + 1, 1, 1, 1, dtype=torch.float64)
            noise[next(draws)] = 1.0
            return noise

        for module, function in (("dpm_solver_sde", "step_noise"), ("ddpm", "step_noise"), ("euler", "draw_noise")):
            monkeypatch.setattr(f"ldm.diffusion.samplers.{module}.{function}", unit)
        first = torch.zeros(2 * num_steps + 1, 1, 1, 1, dtype=torch.float64)
        first[0] = 1.0
        found: list[Tensor] = []
        SAMPLERS[name].sample(
            ideal_eps,
            first,
            SCHEDULE,
            num_steps=num_steps,
            spacing="exponential",
            callback=lambda step, x, pred_x0: found.append(x),
        )
        start, end = (noise_levels(SCHEDULE, num_steps, "exponential").sigmas[i] for i in (0, num_steps - 1))
        variance = (found[-2] ** 2).sum().item() * (1 + end**2)
        exact = SPREAD**2 + end**2
        forgotten = (1 + start**2) / (SPREAD**2 + start**2)  # the start has a little too much variance
        return abs(variance - exact) if forgotten < 1.01 else math.nan

    assert math.log2(error(41) / error(81)) > order - 0.3

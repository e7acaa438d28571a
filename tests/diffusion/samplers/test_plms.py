"""PLMS: the original's trajectory, and the polynomials it is exact for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import classifier_free, guided_eps
from ldm.diffusion.samplers.ddim import ddim_step
from ldm.diffusion.samplers.plms import multistep_eps, sample_plms
from ldm.diffusion.schedule import NoiseSchedule
from tests.oracle import BOUND, BOUND_F64, facts, rel, small_ldm, tensors


def trajectory(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(latents before each step and after the last, predicted x0 of each step) of the stored run, sampled again."""
    io, settings = tensors("samplers"), facts("samplers")["runs"]["plms10"]
    latents, pred_x0s = [io["x_T"].to(dtype)], []

    def keep(step: int, state: Tensor, pred_x0: Tensor) -> None:
        latents.append(state)
        pred_x0s.append(pred_x0)

    eps_fn = guided_eps(
        small_ldm(dtype).predictor, classifier_free(io["c"].to(dtype), io["uc"].to(dtype), settings["scale"])
    )
    final = sample_plms(eps_fn, latents[0], NoiseSchedule(), num_steps=settings["S"], callback=keep)
    assert torch.equal(final, latents[-1])
    return torch.stack(latents), torch.stack(pred_x0s)


@torch.inference_mode()
def test_trajectory_is_the_originals() -> None:
    io = tensors("samplers")
    latents, pred_x0 = trajectory(torch.float32)
    for step in range(11):
        assert rel(latents[step], io["plms10.x"][step]) < BOUND
        assert rel(latents[step], io["plms10.x_f64"][step]) < BOUND
    for step in range(10):
        assert rel(pred_x0[step], io["plms10.pred_x0"][step]) < BOUND


@torch.inference_mode()
def test_trajectory_in_float64_is_the_originals() -> None:
    latents, _ = trajectory(torch.float64)
    for step in range(11):
        assert rel(latents[step], tensors("samplers")["plms10.x_f64"][step]) < BOUND_F64


def test_the_first_step_looks_ahead_to_the_next_timestep() -> None:
    calls: list[Tensor] = []

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(timesteps)
        return latents

    sample_plms(eps_fn, torch.zeros(2, 4, 1, 1), NoiseSchedule(), num_steps=10)
    first, *rest = facts("samplers")["runs"]["plms10"]["timesteps_in_order_of_use"]
    assert all(timesteps.dtype == torch.int64 for timesteps in calls)
    assert [timesteps.tolist() for timesteps in calls] == [[t, t] for t in [first, rest[0], *rest]]


def test_a_single_step_is_heuns_with_both_ends_at_the_only_timestep() -> None:
    schedule, x = NoiseSchedule(), torch.tensor([[[[2.0]]]], dtype=torch.float64)
    alpha, alpha_prev = schedule.alphas_cumprod[1].item(), schedule.alphas_cumprod[0].item()
    ahead, _ = ddim_step(x, 0.5 * x, alpha, alpha_prev)
    expected, _ = ddim_step(x, 0.25 * (x + ahead), alpha, alpha_prev)
    torch.testing.assert_close(sample_plms(lambda x, t: 0.5 * x, x, schedule, num_steps=1), expected)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_multistep_eps_is_exact_for_polynomials_below_its_order(order: int) -> None:
    """Adams-Bashforth: the mean over [0, 1] from values at 0, -1, -2, ...; of t^k it is 1 / (k + 1)."""

    def extrapolated(f: Callable[[float], float]) -> float:
        at = [torch.tensor(f(-i), dtype=torch.float64) for i in range(order)]
        return multistep_eps(at[0], at[1:]).item()

    for degree in range(order):
        assert extrapolated(lambda t, k=degree: t**k) == pytest.approx(1 / (degree + 1))
    assert extrapolated(lambda t: t**order) != pytest.approx(1 / (order + 1), rel=0.1)


@pytest.mark.parametrize("count", [0, 4])
def test_multistep_eps_of_too_few_or_too_many_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"not {count}"):
        multistep_eps(torch.zeros(1), [torch.zeros(1)] * count)

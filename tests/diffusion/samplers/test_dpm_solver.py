"""DPM-Solver++: the original's results, its time grid, and its order of convergence."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import classifier_free, guided_eps
from ldm.diffusion.samplers.dpm_solver import Point, dpm_solver_step, sample_dpm_solver, time_grid
from ldm.diffusion.schedule import NoiseSchedule
from tests.oracle import BOUND, BOUND_F64, facts, rel, small_ldm, tensors


@torch.inference_mode()
@pytest.mark.parametrize("num_steps", [10, 20])
def test_end_and_timesteps_are_the_originals(num_steps: int) -> None:
    io, run = tensors("samplers"), f"dpm{num_steps}"
    settings = facts("samplers")["runs"][run]
    guided = guided_eps(small_ldm().predictor, classifier_free(io["c"], io["uc"], settings["scale"]))
    timesteps: list[float] = []

    def eps_fn(latents: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == torch.float32
        assert t.eq(t[0]).all()
        timesteps.append(t[0].item())
        return guided(latents, t)

    final = sample_dpm_solver(eps_fn, io["x_T"], NoiseSchedule(), num_steps=num_steps)
    assert timesteps == pytest.approx(settings["timesteps_fed_to_the_unet"], rel=1e-6)
    assert rel(final, io[f"{run}.final"]) < BOUND
    assert rel(final, io[f"{run}.final_f64"]) < BOUND


@torch.inference_mode()
@pytest.mark.parametrize("num_steps", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_end_in_float64_is_the_originals(num_steps: int) -> None:
    io = tensors("samplers")
    eps_fn = guided_eps(small_ldm(torch.float64).predictor, classifier_free(io["c"].double(), io["uc"].double(), 7.5))
    final = sample_dpm_solver(eps_fn, io["x_T"].double(), NoiseSchedule(), num_steps=num_steps)
    assert rel(final, io[f"dpm{num_steps}.final_f64"]) < BOUND_F64


def test_time_grid_runs_evenly_from_almost_pure_noise_to_one_step_of_it() -> None:
    schedule = NoiseSchedule()
    grid = time_grid(schedule, 20)
    assert len(grid) == 21
    assert [point.timestep for point in grid] == pytest.approx([999 - 49.95 * i for i in range(21)])
    for point, t in ((grid[0], 999), (grid[-1], 0)):
        assert point.alpha**2 == pytest.approx(schedule.alphas_cumprod[t].item())
    for point in grid:
        assert point.alpha**2 + point.sigma**2 == pytest.approx(1)
        assert point.log_snr == pytest.approx(math.log(point.alpha / point.sigma))


def test_between_timesteps_log_alpha_is_interpolated() -> None:
    schedule = NoiseSchedule()
    point = time_grid(schedule, 20)[1]
    below, above = (0.5 * schedule.alphas_cumprod[t].double().log().item() for t in (949, 950))
    assert math.log(point.alpha) == pytest.approx(below + 0.05 * (above - below))


def a_point(alpha: float) -> Point:
    sigma = math.sqrt(1 - alpha**2)
    return Point(0.0, alpha, sigma, math.log(alpha / sigma))


def test_a_first_order_step_is_ddims() -> None:
    current, to = a_point(0.6), a_point(0.8)
    x, x0 = torch.tensor([1.0]), torch.tensor([0.7])
    eps = (x - 0.6 * x0) / 0.8
    stepped = dpm_solver_step(x, x0, None, a_point(0.1), current, to)
    torch.testing.assert_close(stepped, 0.8 * x0 + 0.6 * eps)


def test_a_second_order_step_goes_half_way_on_in_the_direction_x0_moves() -> None:
    last, current, target = a_point(0.5), a_point(0.6), a_point(0.8)
    x, before, x0 = torch.tensor([1.0]), torch.tensor([0.4]), torch.tensor([0.7])
    slope = 0.3 / (current.log_snr - last.log_snr)
    half_way = x0 + slope * (target.log_snr - current.log_snr) / 2
    expected = dpm_solver_step(x, half_way, None, last, current, target)
    torch.testing.assert_close(dpm_solver_step(x, x0, before, last, current, target), expected)
    unmoved = dpm_solver_step(x, x0, x0, last, current, target)
    torch.testing.assert_close(unmoved, dpm_solver_step(x, x0, None, last, current, target))


def error_on_gaussian_data(num_steps: int) -> float:
    """Of images distributed as N(0, 1/4) the exact eps and the exact end of the path are known.

    The variance of x_t is v = alpha^2 / 4 + sigma^2, eps = sigma x / v, and x / sqrt(v) stays what it was.
    """
    schedule = NoiseSchedule()
    log_alphas = 0.5 * schedule.alphas_cumprod.double().log().numpy()

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        alpha2 = math.exp(2 * float(np.interp(timesteps[0].item(), np.arange(1000), log_alphas)))
        return math.sqrt(1 - alpha2) / (alpha2 / 4 + 1 - alpha2) * latents

    start, *_, end = (point.alpha**2 / 4 + point.sigma**2 for point in time_grid(schedule, num_steps))
    noisiest = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    return abs(sample_dpm_solver(eps_fn, noisiest, schedule, num_steps=num_steps).item() - math.sqrt(end / start))


def test_the_error_falls_with_the_square_of_the_step() -> None:
    """Halving the step divides the error by 4 in the limit; a first-order solver's by 2."""
    errors = [error_on_gaussian_data(num_steps) for num_steps in (160, 320, 640)]
    assert errors[0] < 5e-3
    assert errors[0] / errors[1] > 3.0
    assert errors[1] / errors[2] > 3.3


@pytest.mark.parametrize(("num_steps", "order"), [(14, 1), (15, 2)])
def test_the_last_of_fewer_than_fifteen_steps_is_of_first_order(num_steps: int, order: int) -> None:
    """Of first order it lands at alpha' x0 + sigma' eps of the last prediction alone."""
    schedule, calls = NoiseSchedule(), []

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append((latents, 0.5 * latents))
        return calls[-1][1]

    final = sample_dpm_solver(eps_fn, torch.ones(1, 1, 1, 1, dtype=torch.float64), schedule, num_steps=num_steps)
    (x, eps), current, target = calls[-1], *time_grid(schedule, num_steps)[-2:]
    first_order = target.alpha * (x - current.sigma * eps) / current.alpha + target.sigma * eps
    assert (rel(final, first_order) < 1e-6) == (order == 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_are_rounded_after_the_last_step_only(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start, eps = (torch.randn(1, 4, 8, 8, generator=generator).to(dtype) for _ in range(2))
    final = sample_dpm_solver(lambda x, t: eps, start, NoiseSchedule(), num_steps=30)
    exact = sample_dpm_solver(lambda x, t: eps.double(), start.double(), NoiseSchedule(), num_steps=30)
    assert final.dtype == dtype
    torch.testing.assert_close(final.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-4)

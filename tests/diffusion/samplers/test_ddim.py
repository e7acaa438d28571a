"""DDIM: the original's trajectories, one step by hand, and where its noise comes from."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import EpsFn, classifier_free, guided_eps
from ldm.diffusion.samplers import SAMPLERS, ddim, img2img_start
from ldm.diffusion.samplers.ddim import ddim_step, sample_ddim
from ldm.diffusion.schedule import NoiseSchedule
from tests.oracle import BOUND, BOUND_F64, facts, rel, small_ldm, tensors


def oracle_eps(scale: float, dtype: torch.dtype = torch.float32) -> EpsFn:
    io = tensors("samplers")
    return guided_eps(small_ldm(dtype).predictor, classifier_free(io["c"].to(dtype), io["uc"].to(dtype), scale))


def trajectory(run: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(latents before each step and after the last, predicted x0 of each step) of a stored run, sampled again."""
    settings = facts("samplers")["runs"][run]
    latents, pred_x0s = [tensors("samplers")["x_T"].to(dtype)], []

    def keep(step: int, state: Tensor, pred_x0: Tensor) -> None:
        latents.append(state)
        pred_x0s.append(pred_x0)

    final = sample_ddim(
        oracle_eps(settings["scale"], dtype),
        latents[0],
        NoiseSchedule(),
        num_steps=settings["S"],
        eta=settings["eta"],
        callback=keep,
    )
    assert torch.equal(final, latents[-1])
    return torch.stack(latents), torch.stack(pred_x0s)


def feed_stored_noise(monkeypatch: pytest.MonkeyPatch, run: str) -> list[Any]:
    """Makes each draw of noise return the next one of the stored run; returns the list of unused ones."""
    left = list(tensors("samplers")[f"{run}.noise"])
    monkeypatch.setattr(ddim, "draw_noise", lambda shape, generator, device: left.pop(0))
    return left


@torch.inference_mode()
@pytest.mark.parametrize("run", ["ddim10", "ddim10_scale1", "ddim10_eta0.5"])
def test_trajectory_is_the_originals(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    io = tensors("samplers")
    left = feed_stored_noise(monkeypatch, run) if "eta" in run else []
    latents, pred_x0 = trajectory(run)
    assert not left
    for step in range(11):
        assert rel(latents[step], io[f"{run}.x"][step]) < BOUND
        assert rel(latents[step], io[f"{run}.x_f64"][step]) < BOUND
    for step in range(10):
        assert rel(pred_x0[step], io[f"{run}.pred_x0"][step]) < BOUND


@torch.inference_mode()
@pytest.mark.parametrize("run", ["ddim10", "ddim10_scale1", "ddim10_eta0.5"])
def test_trajectory_in_float64_is_the_originals(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "eta" in run:
        feed_stored_noise(monkeypatch, run)
    latents, _ = trajectory(run, torch.float64)
    for step in range(11):
        assert rel(latents[step], tensors("samplers")[f"{run}.x_f64"][step]) < BOUND_F64


@torch.inference_mode()
def test_timesteps_are_fed_to_the_network_as_whole_numbers_in_the_originals_order() -> None:
    calls: list[Tensor] = []

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(timesteps)
        return latents

    sample_ddim(eps_fn, torch.zeros(2, 4, 1, 1), NoiseSchedule(), num_steps=10)
    expected = facts("samplers")["runs"]["ddim10"]["timesteps_in_order_of_use"]
    assert all(timesteps.dtype == torch.int64 for timesteps in calls)
    assert [timesteps.tolist() for timesteps in calls] == [[t, t] for t in expected]


@torch.inference_mode()
def test_img2img_is_the_originals() -> None:
    io, run, schedule = tensors("samplers"), facts("samplers")["runs"]["img2img"], NoiseSchedule()
    start_step, alpha = img2img_start(SAMPLERS["ddim"], schedule, run["S"], run["strength"])
    assert start_step == run["S"] - run["t_enc"]
    assert alpha == schedule.alphas_cumprod[run["encode_timestep"]].item()
    latents = alpha**0.5 * io["img2img.x0"] + (1 - alpha) ** 0.5 * io["img2img.noise"]
    assert rel(latents, io["img2img.z_enc"]) < 1e-6
    eps_fn, timesteps = oracle_eps(run["scale"]), []

    def recording_eps_fn(x: Tensor, t: Tensor) -> Tensor:
        timesteps.append(t[0].item())
        return eps_fn(x, t)

    decoded = sample_ddim(recording_eps_fn, latents, schedule, num_steps=run["S"], start_step=start_step)
    assert timesteps == run["decode_timesteps_in_order_of_use"]
    assert rel(decoded, io["img2img.decoded"]) < BOUND
    assert rel(decoded, io["img2img.decoded_f64"]) < BOUND


@pytest.mark.parametrize("num_steps", [10, 20, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_sigmas_and_their_complements_are_the_originals(num_steps: int, eta: float) -> None:
    """Sigma is what a step makes of noise 1 alone; without noise and at x0 = 0 it leaves the direction's factor."""
    prefix = f"ddim{num_steps}.eta{eta:g}"
    stored, zero, one = tensors("schedule"), torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for i, (alpha, alpha_prev) in enumerate(zip(*NoiseSchedule().spaced_alphas(num_steps), strict=True)):
        sigma, _ = ddim_step(zero, zero, alpha, alpha_prev, eta, one)
        assert sigma.item() == pytest.approx(stored[f"{prefix}.sigmas"][i].item(), rel=2e-6)
        _, pred_x0 = ddim_step(zero, -one, alpha, alpha_prev, eta)
        complement = pred_x0.item() * math.sqrt(alpha)
        assert complement == pytest.approx(stored[f"{prefix}.sqrt_one_minus_alphas"][i].item(), rel=2e-6)


def test_a_step_without_noise_by_hand() -> None:
    """x = 1, eps = 0.5: x0 = (1 - 0.8 * 0.5) / 0.6 = 1, so x' = 0.8 * 1 + 0.6 * 0.5 = 1.1."""
    prev, pred_x0 = ddim_step(torch.tensor([1.0]), torch.tensor([0.5]), alpha=0.36, alpha_prev=0.64)
    assert pred_x0.item() == pytest.approx(1.0)
    assert prev.item() == pytest.approx(1.1)


def test_a_step_with_noise_by_hand() -> None:
    """sigma^2 = 0.36 / 0.64 * (1 - 0.36 / 0.64) = 0.24609375; 0.36 - sigma^2 = 0.3375^2; 0.8 + 0.16875 + 2 sigma."""
    x, eps, noise = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 0.5, 2.0))
    prev, pred_x0 = ddim_step(x, eps, alpha=0.36, alpha_prev=0.64, eta=1.0, noise=noise)
    assert pred_x0.item() == pytest.approx(1.0)
    assert prev.item() == pytest.approx(0.96875 + 2 * math.sqrt(0.24609375), rel=1e-12)


def test_eta_one_between_neighbours_is_ddpms_posterior() -> None:
    """DDPM, eq. 7: the mean is coef1 * x0 + coef2 * x, the variance the schedule's."""
    buffers, alphas = NoiseSchedule().official_buffers(), NoiseSchedule().alphas_cumprod
    x, eps, zero, one = (torch.tensor([value], dtype=torch.float64) for value in (0.7, -0.3, 0.0, 1.0))
    for t in (1, 17, 500, 999):
        alpha, alpha_prev = alphas[t].item(), alphas[t - 1].item()
        mean, x0 = ddim_step(x, eps, alpha, alpha_prev, 1.0, zero)
        expected = buffers["posterior_mean_coef1"][t] * x0 + buffers["posterior_mean_coef2"][t] * x
        assert mean.item() == pytest.approx(expected.item(), rel=1e-3)
        sigma = ddim_step(zero, zero, alpha, alpha_prev, 1.0, one)[0].item()
        assert sigma**2 == pytest.approx(buffers["posterior_variance"][t].item(), rel=1e-3)


def test_a_step_of_excessive_eta_stays_finite() -> None:
    prev, _ = ddim_step(torch.ones(3), torch.ones(3), alpha=0.36, alpha_prev=0.64, eta=3.0, noise=torch.ones(3))
    assert prev.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_in_half_precision_is_rounded_at_its_end_only(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(1000, generator=generator).to(dtype) for _ in range(2))
    prev, pred_x0 = ddim_step(x, eps, alpha=0.0058, alpha_prev=0.01)
    exact_prev, exact_x0 = ddim_step(x.double(), eps.double(), alpha=0.0058, alpha_prev=0.01)
    assert prev.dtype == pred_x0.dtype == dtype
    eps_of_dtype = torch.finfo(dtype).eps
    torch.testing.assert_close(prev.double(), exact_prev, rtol=eps_of_dtype, atol=1e-5)
    torch.testing.assert_close(pred_x0.double(), exact_x0, rtol=eps_of_dtype, atol=1e-5)


def a_prediction(latents: Tensor, timesteps: Tensor) -> Tensor:
    return 0.5 * latents + 1e-4 * timesteps[:, None, None, None]


def test_without_eta_no_noise_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    sample_ddim(a_prediction, torch.ones(1, 4, 2, 2), NoiseSchedule(), num_steps=5, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_with_eta_every_step_draws_noise_the_last_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(shape: tuple[int, ...], generator: None, device: torch.device) -> Tensor:
        drawn.append(len(drawn))
        return torch.full(shape, 1.0 if len(drawn) == 5 else 0.0)

    monkeypatch.setattr(ddim, "draw_noise", draw)
    schedule = NoiseSchedule()
    zero = torch.zeros(1, 4, 2, 2)
    final = sample_ddim(lambda x, t: torch.zeros_like(x), zero, schedule, num_steps=5, eta=1.0)
    assert len(drawn) == 5
    alpha, alpha_prev = schedule.alphas_cumprod[1].item(), schedule.alphas_cumprod[0].item()
    sigma = math.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))
    torch.testing.assert_close(final, torch.full_like(final, sigma))

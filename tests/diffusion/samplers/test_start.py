"""What all samplers have in common: where they start, how often they ask the network, what they give back."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ldm.diffusion.samplers import SAMPLERS, img2img_start
from ldm.diffusion.schedule import NoiseSchedule

NAMES = sorted(SAMPLERS)
SCHEDULE = NoiseSchedule()
TWO_CALLS = ("heun", "dpm-solver-sde")
"""Samplers whose steps but the last call the network twice."""
FRESH_NOISE = ("ddpm", "lcm")
"""Samplers that always add noise."""
DETERMINISTIC = [name for name in NAMES if name not in FRESH_NOISE]
KEEPS_NOISE = ("ddim", "plms", "dpm-solver")
"""Samplers that end with the first timestep's noise; the others end without any."""


def without_noise(name: str) -> Callable[..., Tensor]:
    """The sampler's function, adding no noise."""
    sampler = SAMPLERS[name]
    return sampler.sample if sampler.default_eta is None else partial(sampler.sample, eta=0.0)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_samplers_have_these_names() -> None:
    with_noise = ["ddpm", "dpm-solver-2m-sde", "dpm-solver-sde", "euler-ancestral", "lcm"]
    assert sorted(["ddim", "plms", "dpm-solver", "euler", "heun", "lms", "unipc", *with_noise]) == NAMES
    with_eta = [name for name in NAMES if SAMPLERS[name].default_eta is not None]
    assert with_eta == ["ddim", "dpm-solver-2m-sde", "dpm-solver-sde", "euler-ancestral"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_steps", [1, 7, 1000])
def test_how_often_the_network_is_called(name: str, num_steps: int) -> None:
    calls: list[Tensor] = []
    steps: list[int] = []

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(timesteps)
        return torch.zeros_like(latents)

    SAMPLERS[name].sample(
        eps_fn, torch.ones(1, 1, 1, 1), SCHEDULE, num_steps=num_steps, callback=lambda step, x, x0: steps.append(step)
    )
    assert len(calls) == (2 * num_steps - 1 if name in TWO_CALLS else num_steps + (name == "plms"))
    assert steps == list(range(num_steps))
    assert all(timesteps.shape == (1,) for timesteps in calls)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start_step", [1, 9])
def test_a_late_start_runs_the_last_steps_only(name: str, start_step: int) -> None:
    all_timesteps: list[float] = []
    late_timesteps: list[float] = []
    steps: list[int] = []

    def eps_fn(calls: list[float], latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(timesteps[0].item())
        return torch.zeros_like(latents)

    x = torch.ones(1, 1, 1, 1)
    SAMPLERS[name].sample(lambda x, t: eps_fn(all_timesteps, x, t), x, SCHEDULE, num_steps=10)
    SAMPLERS[name].sample(
        lambda x, t: eps_fn(late_timesteps, x, t),
        x,
        SCHEDULE,
        num_steps=10,
        start_step=start_step,
        callback=lambda step, x, x0: steps.append(step),
    )
    assert steps == list(range(start_step, 10))
    calls = 2 * (10 - start_step) - 1 if name == "dpm-solver-sde" else 10 - start_step
    assert sorted(set(late_timesteps)) == sorted(set(all_timesteps))[:calls]


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("num_steps", [1, 20, 1000])
def test_with_the_true_noise_every_step_predicts_the_clean_latents(name: str, num_steps: int) -> None:
    x0, eps, predictions = noise(2, 4, 3, 5, seed=0), noise(2, 4, 3, 5, seed=1), []
    first = 999 if name == "dpm-solver" else SCHEDULE.spaced_timesteps(num_steps)[-1]
    alpha = SCHEDULE.alphas_cumprod[first].item()
    alpha_end = SCHEDULE.alphas_cumprod[0].item() if name in KEEPS_NOISE else 1.0
    final = without_noise(name)(
        lambda x, t: eps,
        alpha**0.5 * x0 + (1 - alpha) ** 0.5 * eps,
        SCHEDULE,
        num_steps=num_steps,
        callback=lambda step, x, pred_x0: predictions.append(pred_x0),
    )
    for pred_x0 in predictions:
        torch.testing.assert_close(pred_x0, x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(final, alpha_end**0.5 * x0 + (1 - alpha_end) ** 0.5 * eps, rtol=0, atol=1e-9)


def test_with_the_true_noise_dpm_solver_recovers_the_clean_latents_from_any_start() -> None:
    """Its latents enter a step exactly as noisy as the step takes them to be; the others', as the original's, not."""
    x0, eps = noise(1, 4, 3, 5, seed=0), noise(1, 4, 3, 5, seed=1)
    for start_step in range(1, 20):
        alpha = SAMPLERS["dpm-solver"].start_alpha(SCHEDULE, 20, start_step)
        predictions: list[Tensor] = []
        SAMPLERS["dpm-solver"].sample(
            lambda x, t: eps,
            alpha**0.5 * x0 + (1 - alpha) ** 0.5 * eps,
            SCHEDULE,
            num_steps=20,
            start_step=start_step,
            callback=lambda step, x, pred_x0, calls=predictions: calls.append(pred_x0),
        )
        assert len(predictions) == 20 - start_step
        for pred_x0 in predictions:
            torch.testing.assert_close(pred_x0, x0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_stay_half_and_come_near(name: str, dtype: torch.dtype) -> None:
    noisiest = noise(2, 4, 3, 5, seed=0).to(dtype)
    calls: list[torch.dtype] = []

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        return 0.9 * latents

    def half_eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(latents.dtype)
        return eps_fn(latents, timesteps)

    def after_step(step: int, latents: Tensor, pred_x0: Tensor) -> None:
        calls.extend([latents.dtype, pred_x0.dtype])

    final = without_noise(name)(half_eps_fn, noisiest, SCHEDULE, num_steps=5, callback=after_step)
    exact = without_noise(name)(eps_fn, noisiest.double(), SCHEDULE, num_steps=5)
    assert set(calls) == {dtype}
    assert final.dtype == dtype
    torch.testing.assert_close(final.double(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_steps_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="from 1 to 1000, not 1001"):
        SAMPLERS[name].sample(lambda x, t: x, torch.ones(1, 1, 1, 1), SCHEDULE, num_steps=1001)


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_runs_no_step_on_untouched_latents(name: str) -> None:
    assert img2img_start(SAMPLERS[name], SCHEDULE, 20, 0.0) == (20, 1.0)
    x = noise(1, 4, 2, 2, seed=0)
    assert torch.equal(SAMPLERS[name].sample(lambda x, t: x, x, SCHEDULE, num_steps=20, start_step=20), x)


@pytest.mark.parametrize("name", NAMES)
def test_strength_one_runs_all_steps_on_pure_noise(name: str) -> None:
    assert img2img_start(SAMPLERS[name], SCHEDULE, 20, 1.0) == (0, 0.0)


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_strength_three_quarters_starts_one_step_above_the_first_timestep_as_the_original(name: str) -> None:
    alpha_751 = SCHEDULE.alphas_cumprod[751].item()
    assert img2img_start(SAMPLERS[name], SCHEDULE, 20, 0.75) == (5, alpha_751)


def test_strength_three_quarters_starts_dpm_solver_at_the_timestep_it_denoises_first() -> None:
    start_step, alpha = img2img_start(SAMPLERS["dpm-solver"], SCHEDULE, 20, 0.75)
    calls: list[float] = []

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(timesteps[0].item())
        return latents

    SAMPLERS["dpm-solver"].sample(eps_fn, torch.ones(1, 1, 1, 1), SCHEDULE, num_steps=20, start_step=start_step)
    assert start_step == 5
    assert calls[0] == pytest.approx(749.25)
    above, below = SCHEDULE.alphas_cumprod[749].item(), SCHEDULE.alphas_cumprod[750].item()
    assert below < alpha < above


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan"), float("inf")])
def test_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength should be from 0 to 1"):
        img2img_start(SAMPLERS["ddim"], SCHEDULE, 20, strength)


@pytest.mark.parametrize("name", NAMES)
@given(num_steps=st.integers(1, 200), data=st.data())
def test_a_share_that_is_a_whole_number_of_steps_runs_exactly_these(
    name: str, num_steps: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(0, num_steps))
    start_step, alpha = img2img_start(SAMPLERS[name], SCHEDULE, num_steps, steps / num_steps)
    assert start_step == num_steps - steps
    assert 0.0 <= alpha <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_share_between_two_steps_is_rounded_down(name: str) -> None:
    assert img2img_start(SAMPLERS[name], SCHEDULE, 20, 0.7999)[0] == 5
    assert img2img_start(SAMPLERS[name], SCHEDULE, 20, 0.049) == (20, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_more_strength_starts_from_noisier_latents(name: str) -> None:
    alphas = [img2img_start(SAMPLERS[name], SCHEDULE, 50, steps / 50)[1] for steps in range(51)]
    assert all(more < less for less, more in pairwise(alphas))

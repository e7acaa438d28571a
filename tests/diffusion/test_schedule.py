"""The noise schedule: the original's buffers, and which timesteps a sampler visits."""

from itertools import pairwise

import pytest
import torch

from ldm.diffusion.schedule import NoiseSchedule, ScheduleConfig
from tests.oracle import facts, rel, tensors

ULP = 1.2e-7
"""What one unit in the last place of a float32 is at most, relatively."""


def test_the_twelve_official_buffers_are_the_originals() -> None:
    buffers, stored = NoiseSchedule().official_buffers(), tensors("schedule")
    assert buffers.keys() == {key for key in stored if "." not in key and "f64" not in key} - {"lvlb_weights"}
    assert len(buffers) == 12
    for name, buffer in buffers.items():
        assert buffer.dtype == torch.float32
        torch.testing.assert_close(buffer, stored[name], rtol=ULP, atol=0, msg=name)


def test_betas_and_alphas_are_the_float64_ones_rounded() -> None:
    schedule, stored = NoiseSchedule(), tensors("schedule")
    torch.testing.assert_close(schedule.betas, stored["betas_f64"].float(), rtol=ULP, atol=0)
    torch.testing.assert_close(schedule.alphas_cumprod, stored["alphas_cumprod_f64"].float(), rtol=ULP, atol=0)


def test_its_numbers_are_those_that_the_json_names() -> None:
    stored = facts("schedule")
    assert ScheduleConfig() == ScheduleConfig(stored["timesteps"], stored["linear_start"], stored["linear_end"])


@pytest.mark.parametrize("num_steps", [10, 20, 50])
def test_spaced_timesteps_and_alphas_are_the_originals(num_steps: int) -> None:
    schedule, stored = NoiseSchedule(), tensors("schedule")
    assert schedule.spaced_timesteps(num_steps) == stored[f"ddim{num_steps}.timesteps"].tolist()
    alphas, alphas_prev = schedule.spaced_alphas(num_steps)
    for eta in ("0", "0.5"):
        assert alphas == pytest.approx(stored[f"ddim{num_steps}.eta{eta}.alphas"].tolist(), rel=ULP)
        assert alphas_prev == pytest.approx(stored[f"ddim{num_steps}.eta{eta}.alphas_prev"].tolist(), rel=ULP)


def test_every_number_of_steps_gives_that_many_distinct_ascending_timesteps() -> None:
    schedule = NoiseSchedule()
    for num_steps in range(1, 1001):
        timesteps = schedule.spaced_timesteps(num_steps)
        assert len(timesteps) == num_steps
        assert all(a < b for a, b in pairwise(timesteps)), num_steps
        assert timesteps[0] >= 0, num_steps
        assert timesteps[-1] <= 999, num_steps


def test_timesteps_are_as_evenly_spaced_as_whole_numbers_can_be() -> None:
    schedule = NoiseSchedule()
    for num_steps in range(2, 1001):
        timesteps = schedule.spaced_timesteps(num_steps)
        gaps = {b - a for a, b in zip(timesteps, [*timesteps[1:], timesteps[0] + 1000], strict=True)}
        assert gaps <= {1000 // num_steps, -(-1000 // num_steps)}, num_steps


def test_where_the_steps_divide_the_schedule_the_timesteps_are_the_originals() -> None:
    schedule = NoiseSchedule()
    divisors = [num_steps for num_steps in range(1, 1000) if 1000 % num_steps == 0]
    assert divisors == [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500]
    for num_steps in divisors:
        assert schedule.spaced_timesteps(num_steps) == [t + 1 for t in range(0, 1000, 1000 // num_steps)]


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_numbers_of_steps_that_cannot_be_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 1000, not {num_steps}"):
        NoiseSchedule().spaced_timesteps(num_steps)
    with pytest.raises(ValueError, match=f"from 1 to 1000, not {num_steps}"):
        NoiseSchedule().spaced_alphas(num_steps)


def test_a_shorter_schedule_is_spaced_over_its_own_length() -> None:
    schedule = NoiseSchedule(ScheduleConfig(num_timesteps=12))
    assert schedule.alphas_cumprod.shape == (12,)
    assert schedule.spaced_timesteps(3) == [1, 5, 9]
    assert schedule.spaced_timesteps(12) == list(range(12))
    with pytest.raises(ValueError, match="from 1 to 12, not 13"):
        schedule.spaced_timesteps(13)


def test_noised_latents_are_the_originals() -> None:
    io = tensors("ddpm-loss")
    assert rel(NoiseSchedule().add_noise(io["z"], io["noise"], io["t"]), io["x_noisy"]) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_noised_latents_keep_their_dtype_and_are_computed_in_float32_at_least(dtype: torch.dtype) -> None:
    io = tensors("ddpm-loss")
    z, noise = io["z"].to(dtype), io["noise"].to(dtype)
    noised = NoiseSchedule().add_noise(z, noise, io["t"])
    assert noised.dtype == dtype
    alpha = NoiseSchedule().alphas_cumprod[io["t"]].view(2, 1, 1, 1).double()
    exact = alpha.sqrt() * z.double() + (1 - alpha).sqrt() * noise.double()
    torch.testing.assert_close(noised.double(), exact, rtol=max(torch.finfo(dtype).eps, 1e-6), atol=1e-6)


def test_noising_takes_tensors_of_any_rank() -> None:
    schedule, t = NoiseSchedule(), torch.tensor([0, 999])
    noised = schedule.add_noise(torch.ones(2, 3), torch.zeros(2, 3), t)
    torch.testing.assert_close(noised, schedule.alphas_cumprod[t].sqrt()[:, None].expand(2, 3))


def test_a_schedule_has_values_where_weights_are_on_the_meta_device() -> None:
    with torch.device("meta"):
        schedule = NoiseSchedule()
        buffers = schedule.official_buffers()
    assert schedule.alphas_cumprod.device.type == "cpu"
    assert all(torch.equal(buffer, NoiseSchedule().official_buffers()[name]) for name, buffer in buffers.items())


def test_a_device_is_given_its_copy_of_the_alphas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, timesteps = NoiseSchedule(), torch.tensor([3, 999], device="meta")
    copies: list[object] = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kw: copies.append(args) or to(self, *args, **kw))
    for _ in range(3):
        alphas = schedule.alphas_cumprod_at(timesteps)
    assert len(copies) == 1
    assert (alphas.device.type, alphas.shape, alphas.dtype) == ("meta", (2,), torch.float32)
    assert schedule.alphas_cumprod_at(timesteps.new_tensor([3], device="cpu")).equal(schedule.alphas_cumprod[[3]])

"""Counted arithmetic: Stable Diffusion v1's known figures, and the floors made of them."""

import pytest
import torch

from benchmarks.tools.floors import Speed, count, measure_speed
from benchmarks.tools.sizes import SIZES


@pytest.mark.slow
def test_the_arithmetic_of_stable_diffusion_v1() -> None:
    counted = count(SIZES["full"].settings.model, 512)
    gflop = [counted.unet, counted.encode, counted.decode, counted.text]
    assert [value / 1e9 for value in gflop] == pytest.approx([803.3, 1116.7, 2514.5, 13.3], abs=0.05)
    assert counted.unet_weights == 859_520_964
    assert counted.image(50) / 1e12 == pytest.approx(82.9, abs=0.1)
    assert counted.step(2, train_text_encoder=False) / 1e12 == pytest.approx(4.81, abs=0.01)
    assert counted.step(2, train_text_encoder=True) > counted.step(2, train_text_encoder=False)
    assert counted.optimizer_bytes(train_text_encoder=False) / 1e9 == pytest.approx(24, abs=0.2)


def test_floors_follow_from_the_machines_speed() -> None:
    speed = Speed(tflops=790, copy_gbs=4300)
    assert speed.matrix_seconds(82.9e12) == pytest.approx(0.105, abs=0.001)
    assert speed.traffic_seconds(24.07e9) == pytest.approx(0.0056, abs=0.0001)


def test_the_machine_is_measured() -> None:
    speed = measure_speed(torch.device("cpu"), torch.float32, runs=1)
    assert speed.tflops > 0 and speed.copy_gbs > 0
    assert "TFLOP/s" in str(speed)

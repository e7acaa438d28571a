"""From --precision to the types in which a device computes."""

from collections.abc import Callable

import pytest
import torch

from ldm.errors import UserError
from ldm.runtime.precision import (
    Compute,
    half_dtype,
    sampling_compute,
    training_compute,
    training_precision,
)
from tests.commands.machine import Machine

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


def test_half_precision_is_bfloat16_where_the_hardware_has_it(machine: Machine) -> None:
    machine.has(gpus=1)
    assert {half_dtype(device) for device in (CPU, CUDA, MPS)} == {torch.bfloat16}
    machine.has(gpus=1, bf16=False)
    assert half_dtype(CUDA) == torch.float16
    assert half_dtype(CPU) == torch.bfloat16


@pytest.mark.parametrize(
    ("device", "precision", "dtype", "autocast"),
    [
        (CPU, "auto", torch.float32, None),
        (MPS, "auto", torch.float32, None),
        (CUDA, "auto", torch.bfloat16, None),
        (CUDA, "full", torch.float32, None),
        (CUDA, "fp16", torch.float16, None),
        (CUDA, "bf16", torch.bfloat16, None),
        (CPU, "bf16", torch.bfloat16, None),
        (MPS, "fp16", torch.float16, None),
        (CUDA, "autocast", torch.float32, torch.bfloat16),
        (CPU, "autocast", torch.float32, torch.bfloat16),
    ],
)
def test_drawing_types(
    device: torch.device, precision: str, dtype: torch.dtype, autocast: torch.dtype | None, machine: Machine
) -> None:
    machine.has(gpus=1, mps=True)
    assert sampling_compute(device, precision) == Compute(device, dtype, autocast)


@pytest.mark.parametrize(
    ("device", "precision", "autocast"),
    [
        (CPU, "auto", None),
        (MPS, "auto", None),
        (CUDA, "auto", torch.bfloat16),
        (CUDA, "full", None),
        (CUDA, "autocast", torch.bfloat16),
        (CPU, "autocast", torch.bfloat16),
        (CPU, "bf16-mixed", torch.bfloat16),
        (CUDA, "bf16-mixed", torch.bfloat16),
        (CUDA, "fp16-mixed", torch.float16),
    ],
)
def test_training_types_are_mixed_over_float32_weights(
    device: torch.device, precision: str, autocast: torch.dtype | None, machine: Machine
) -> None:
    machine.has(gpus=1, mps=True)
    assert training_compute(device, precision) == Compute(device, torch.float32, autocast)


def test_older_gpus_get_float16(machine: Machine) -> None:
    machine.has(gpus=1, bf16=False)
    assert sampling_compute(CUDA, "auto").dtype == torch.float16
    assert sampling_compute(CUDA, "autocast").autocast_dtype == torch.float16
    assert training_compute(CUDA, "auto").autocast_dtype == torch.float16


def test_each_gpu_is_asked_for_itself(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(gpus=2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((7, 5), (9, 0))[device.index])
    assert [half_dtype(torch.device("cuda", index)) for index in range(2)] == [torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    ("device", "asked", "bf16", "resolved"),
    [
        (CPU, "auto", True, "full"),
        (CPU, "autocast", True, "bf16-mixed"),
        (CUDA, "auto", True, "bf16-mixed"),
        (CUDA, "auto", False, "fp16-mixed"),
        (CUDA, "bf16-mixed", False, "bf16-mixed"),
        (CUDA, "full", True, "full"),
    ],
)
def test_what_a_training_is_computed_in_has_a_name(
    device: torch.device, asked: str, bf16: bool, resolved: str, machine: Machine
) -> None:
    machine.has(gpus=1, bf16=bf16)
    assert training_precision(device, asked) == resolved
    assert training_compute(device, asked) == training_compute(device, resolved)


def test_float16_is_refused_where_it_does_not_work() -> None:
    with pytest.raises(UserError, match="--precision fp16"):
        sampling_compute(CPU, "fp16")
    for device in (CPU, MPS):
        with pytest.raises(UserError, match="--precision fp16-mixed"):
            training_compute(device, "fp16-mixed")


def test_autocast_lowers_arithmetic_and_only_if_asked_to() -> None:
    a = torch.ones(2, 2)
    with Compute(CPU, autocast_dtype=torch.bfloat16).autocast():
        assert (a @ a).dtype == torch.bfloat16
    with Compute(CPU).autocast():
        assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize("compute", [sampling_compute, training_compute])
def test_float32_is_float32_on_a_gpu_too(compute: Callable[[torch.device, str], Compute]) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    compute(torch.device("cpu"), "full")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32

"""From --device and --precision to torch's devices and types; running out of memory."""

from collections.abc import Callable

import pytest
import torch

from ldm.errors import UserError
from ldm.runtime.devices import (
    Compute,
    explain_out_of_memory,
    half_dtype,
    parse_device,
    parse_devices,
    sampling_compute,
    training_compute,
    training_precision,
)
from tests.commands.machine import Machine

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


def test_auto_takes_the_best_device(machine: Machine) -> None:
    assert parse_devices("auto") == [CPU]
    machine.has(mps=True)
    assert parse_devices("auto") == [MPS]
    machine.has(gpus=2, mps=True)
    assert parse_devices("auto") == [torch.device("cuda")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", ["cpu"]),
        ("cuda:1", ["cuda:1"]),
        ("1", ["cuda:1"]),
        ("0,1", ["cuda:0", "cuda:1"]),
        ("cuda:0, cuda:1", ["cuda:0", "cuda:1"]),
        ("cpu,cpu", ["cpu", "cpu"]),
        ("mps", ["mps"]),
    ],
)
def test_devices_are_named_or_numbered(text: str, expected: list[str], machine: Machine) -> None:
    machine.has(gpus=2, mps=True)
    assert parse_devices(text) == [torch.device(name) for name in expected]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cuda", "no CUDA device 0"),
        ("cpu,1", "no CUDA device 1"),
        ("mps", "no MPS device"),
        ("gpu", "'gpu' is no device"),
        ("", "'' is no device"),
        ("meta", "'meta' is not supported"),
        ("-1", "'-1' is no device"),
    ],
)
def test_a_missing_or_unknown_device_is_a_user_error(text: str, words: str, machine: Machine) -> None:
    with pytest.raises(UserError, match=words):
        parse_devices(text)


def test_one_gpu_too_many_is_named_with_their_count(machine: Machine) -> None:
    machine.has(gpus=2)
    with pytest.raises(UserError, match="no CUDA device 2; torch finds 2"):
        parse_devices("0,1,2")


def test_the_same_gpu_twice_is_refused(machine: Machine) -> None:
    machine.has(gpus=2)
    with pytest.raises(UserError, match="0"):
        parse_devices("0,0")


def test_one_device_is_exactly_one(machine: Machine) -> None:
    assert parse_device("cpu") == CPU
    with pytest.raises(UserError, match="one device, not 'cpu,cpu'"):
        parse_device("cpu,cpu")


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
        (CPU, "bf16", torch.bfloat16, None),
        (MPS, "fp16", torch.float16, None),
        (CUDA, "autocast", torch.float32, torch.bfloat16),
    ],
)
def test_sampling_types(
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
        (CPU, "bf16-mixed", torch.bfloat16),
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


def test_each_gpu_gets_its_own_type(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(gpus=2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((7, 5), (9, 0))[device.index])
    assert [half_dtype(torch.device("cuda", index)) for index in range(2)] == [torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    ("device", "precision", "bf16", "resolved"),
    [
        (CPU, "auto", True, "full"),
        (CPU, "autocast", True, "bf16-mixed"),
        (CUDA, "auto", True, "bf16-mixed"),
        (CUDA, "auto", False, "fp16-mixed"),
        (CUDA, "bf16-mixed", False, "bf16-mixed"),
        (CUDA, "full", True, "full"),
    ],
)
def test_auto_and_autocast_are_resolved_for_a_training(
    device: torch.device, precision: str, bf16: bool, resolved: str, machine: Machine
) -> None:
    machine.has(gpus=1, bf16=bf16)
    assert training_precision(device, precision) == resolved
    assert training_compute(device, precision) == training_compute(device, resolved)


def test_float16_is_refused_on_devices_that_lack_it() -> None:
    with pytest.raises(UserError, match="--precision fp16"):
        sampling_compute(CPU, "fp16")
    for device in (CPU, MPS):
        with pytest.raises(UserError, match="--precision fp16-mixed"):
            training_compute(device, "fp16-mixed")


def test_autocast_is_used_only_if_set() -> None:
    a = torch.ones(2, 2)
    with Compute(CPU, autocast_dtype=torch.bfloat16).autocast():
        assert (a @ a).dtype == torch.bfloat16
    with Compute(CPU).autocast():
        assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize("compute", [sampling_compute, training_compute])
def test_tf32_is_switched_off(compute: Callable[[torch.device, str], Compute]) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    compute(torch.device("cpu"), "full")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_out_of_memory_is_explained_with_advice() -> None:
    with (
        pytest.raises(UserError, match="memory is too small for this: a smaller --hw needs less"),
        explain_out_of_memory("a smaller --hw needs less"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), explain_out_of_memory("nothing helps"):
        _ = 1 / 0

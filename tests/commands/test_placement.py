"""From --device and --precision to torch's devices and types."""

import contextlib
from collections.abc import Callable

import pytest
import torch

from ldm.commands.placement import (
    Compute,
    drawing_compute,
    drawing_crew,
    explain_out_of_memory,
    half_dtype,
    parse_device,
    parse_devices,
    step_recorder,
    training_compute,
    training_precision,
)
from ldm.diffusion.crew import Crew
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.nn.static_call import record_cuda_graph
from tests.tiny import build_tiny_model

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> "Machine":
    return Machine(monkeypatch)


class Machine:
    """Makes torch see other hardware."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.has()

    def has(self, gpus: int = 0, mps: bool = False, bf16: bool = True) -> None:
        """So many GPUs, or Apple's, and whether they know bfloat16."""
        self.monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        self.monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        self.monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if bf16 else (7, 5))
        self.monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_takes_the_best_that_is_there(machine: Machine) -> None:
    assert parse_devices("auto") == [CPU]
    machine.has(mps=True)
    assert parse_devices("auto") == [MPS]
    machine.has(gpus=2, mps=True)
    assert parse_devices("auto") == [torch.device("cuda")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", ["cpu"]),
        ("cuda", ["cuda"]),
        ("cuda:1", ["cuda:1"]),
        ("1", ["cuda:1"]),
        ("0,1", ["cuda:0", "cuda:1"]),
        ("cuda:0, cuda:1", ["cuda:0", "cuda:1"]),
        ("0, 1", ["cuda:0", "cuda:1"]),
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
        ("0", "no CUDA device 0"),
        ("cpu,1", "no CUDA device 1"),
        ("mps", "no MPS device"),
        ("gpu", "'gpu' is no device"),
        ("", "'' is no device"),
        ("cpu,", "'' is no device"),
        ("meta", "'meta' is not supported"),
        ("-1", "'-1' is no device"),
        ("cuda:x", "'cuda:x' is no device"),
    ],
)
def test_a_device_that_is_not_there_is_the_users_mistake(text: str, words: str, machine: Machine) -> None:
    with pytest.raises(UserError, match=words):
        parse_devices(text)


def test_one_gpu_too_many_is_named_with_their_count(machine: Machine) -> None:
    machine.has(gpus=2)
    with pytest.raises(UserError, match="no CUDA device 2; torch sees 2"):
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
    assert drawing_compute(device, precision) == Compute(device, dtype, autocast)


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
    assert drawing_compute(CUDA, "auto").dtype == torch.float16
    assert drawing_compute(CUDA, "autocast").autocast_dtype == torch.float16
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
        drawing_compute(CPU, "fp16")
    for device in (CPU, MPS):
        with pytest.raises(UserError, match="--precision fp16-mixed"):
            training_compute(device, "fp16-mixed")


def test_autocast_lowers_arithmetic_and_only_if_asked_to() -> None:
    a = torch.ones(2, 2)
    with Compute(CPU, autocast_dtype=torch.bfloat16).autocast():
        assert (a @ a).dtype == torch.bfloat16
    with Compute(CPU).autocast():
        assert (a @ a).dtype == torch.float32


def test_out_of_memory_is_explained_with_advice() -> None:
    with (
        pytest.raises(UserError, match="memory is too small for this: a smaller --hw needs less"),
        explain_out_of_memory("a smaller --hw needs less"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass_through() -> None:
    with contextlib.suppress(ZeroDivisionError), explain_out_of_memory("nothing helps"):
        _ = 1 / 0
        pytest.fail("the error was swallowed")
    with pytest.raises(ZeroDivisionError), explain_out_of_memory("nothing helps"):
        _ = 1 / 0


def test_on_a_cpu_small_networks_draw_on_each_core_and_large_ones_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert drawing_crew(build_tiny_model(), SamplingConfig(64, 64)) == Crew(workers=6, threads=1)
    with torch.device("meta"):
        full_size = LatentDiffusion(LatentDiffusionConfig())
    assert drawing_crew(full_size, SamplingConfig(512, 512)) == Crew()  # on another device than a CPU
    monkeypatch.setattr(LatentDiffusion, "device", CPU)
    assert drawing_crew(full_size, SamplingConfig(512, 512)) == Crew(workers=1, threads=6)


@pytest.mark.parametrize("compute", [drawing_compute, training_compute])
def test_float32_is_float32_on_a_gpu_too(compute: Callable[[torch.device, str], Compute]) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    compute(torch.device("cpu"), "full")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("device", "asked", "recorded"),
    [(CUDA, "auto", True), (CUDA, "graphs", True), (CUDA, "off", False), (CPU, "auto", False), (MPS, "auto", False)],
)
def test_training_steps_are_recorded_on_cuda_unless_that_is_off(
    device: torch.device, asked: str, recorded: bool
) -> None:
    assert step_recorder([device], asked) == (record_cuda_graph if recorded else None)

"""Torch's devices and types for `--device` and `--precision`, and the error when a device runs out of memory."""

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from ldm.checkpoint.loading import Placement
from ldm.errors import UserError


def parse_devices(text: str) -> list[torch.device]:
    """`auto`, or devices separated by commas; a bare number is a CUDA device. Raises `UserError` for a missing one."""
    if text == "auto":
        return [torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")]
    devices = []
    for name in map(str.strip, text.split(",")):
        try:
            device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
        except RuntimeError:
            raise UserError(f"'{name}' is no device; use auto, cpu, mps, cuda, cuda:1 or 0,1") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"there is no CUDA device {device.index or 0}; torch finds {torch.cuda.device_count()}")
        if device.type == "mps" and not _has_mps():
            raise UserError("there is no MPS device here; use --device cpu")
        if device.type not in ("cuda", "mps", "cpu"):
            raise UserError(f"'{name}' is not supported; use auto, cpu, mps, cuda, cuda:1 or 0,1")
        if device in devices and device.type != "cpu":
            raise UserError(f"'{name}' is named twice")
        devices.append(device)
    return devices


def parse_device(text: str) -> torch.device:
    """Exactly one device."""
    devices = parse_devices(text)
    if len(devices) != 1:
        raise UserError(f"--device takes one device, not '{text}'")
    return devices[0]


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


@dataclass(frozen=True)
class Compute(Placement):
    """The device and type of the weights, and the type that autocast computes in, if any."""

    autocast_dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which to sample or train."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)


def half_dtype(device: torch.device) -> torch.dtype:
    """The better 16-bit type of a device: bfloat16 doesn't overflow, but older GPUs don't have it."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return torch.float16
    return torch.bfloat16


def keep_float32_exact() -> None:
    """Switches off TF32, in which NVIDIA's GPUs by default round the factors in convolutions to 10 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch have another setting, older ones don't
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def sampling_compute(device: torch.device, precision: str) -> Compute:
    """The device and types for sampling: `auto` is half precision on CUDA and float32 elsewhere."""
    keep_float32_exact()
    if precision == "auto":
        precision = "half" if device.type == "cuda" else "full"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 is not for the CPU; use full or bf16")
    match precision:
        case "full":
            return Compute(device)
        case "autocast":
            return Compute(device, autocast_dtype=half_dtype(device))
    return Compute(device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, half_dtype(device)))


def training_precision(device: torch.device, precision: str) -> str:
    """Resolves `auto` (mixed on CUDA only) and `autocast` for a device: full, bf16-mixed or fp16-mixed."""
    if precision == "auto":
        precision = "autocast" if device.type == "cuda" else "full"
    if precision == "autocast":
        return "bf16-mixed" if half_dtype(device) == torch.bfloat16 else "fp16-mixed"
    return precision


def training_compute(device: torch.device, precision: str) -> Compute:
    """The device and types for training: float32 weights, and computing in the type of `training_precision`."""
    keep_float32_exact()
    precision = training_precision(device, precision)
    if precision == "fp16-mixed" and device.type != "cuda":
        raise UserError("--precision fp16-mixed needs a CUDA device; use bf16-mixed or full")
    dtypes = {"full": None, "bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}
    return Compute(device, autocast_dtype=dtypes[precision])


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turns the device's out-of-memory error into a `UserError` that says what would fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the device's memory is too small for this: {advice}") from error

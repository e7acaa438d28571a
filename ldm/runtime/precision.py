"""From `--precision` to the types in which a device computes."""

import contextlib
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ldm.checkpoint.loading import Placement
from ldm.errors import UserError


@dataclass(frozen=True)
class Compute(Placement):
    """Where the weights are, their type, and the type that autocast lowers arithmetic to, if any."""

    autocast_dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """The context to sample or train in."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)


def half_dtype(device: torch.device) -> torch.dtype:
    """The better 16-bit type of a device: bfloat16 doesn't overflow, but older GPUs lack it."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):  # of this one, not the current one
        return torch.float16
    return torch.bfloat16


def keep_float32_exact() -> None:
    """Switches off TF32, with which NVIDIA's GPUs by default round what convolutions multiply to 10 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch have another way, older ones don't
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def sampling_compute(device: torch.device, precision: str) -> Compute:
    """For txt2img and img2img; `auto` is half precision on CUDA and float32 elsewhere."""
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


def training_precision(device: torch.device, asked: str) -> str:
    """full, bf16-mixed or fp16-mixed: what `auto`, which mixes on CUDA only, and `autocast` mean on a device."""
    if asked == "auto":
        asked = "autocast" if device.type == "cuda" else "full"
    if asked == "autocast":
        return "bf16-mixed" if half_dtype(device) == torch.bfloat16 else "fp16-mixed"
    return asked


def training_compute(device: torch.device, precision: str) -> Compute:
    """For dreambooth: float32 weights always, and arithmetic by `training_precision`."""
    keep_float32_exact()
    precision = training_precision(device, precision)
    if precision == "fp16-mixed" and device.type != "cuda":
        raise UserError("--precision fp16-mixed needs a CUDA device; use bf16-mixed or full")
    dtypes = {"full": None, "bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}
    return Compute(device, autocast_dtype=dtypes[precision])

"""From `--device` and `--precision` to torch's devices, types and threads."""

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ldm.checkpoint.loading import Placement
from ldm.diffusion.crew import Crew, threads_for
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.nn.static_call import Record, record_cuda_graph


@dataclass(frozen=True)
class Compute(Placement):
    """Where the weights are, their type, and the type that autocast lowers arithmetic to, if any."""

    autocast_dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """The context to sample or train in."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)


def parse_devices(text: str) -> list[torch.device]:
    """`auto`, or devices separated by commas; a bare number is a CUDA device. Raises `UserError` for one not there."""
    if text == "auto":
        return [torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")]
    devices = []
    for name in map(str.strip, text.split(",")):
        try:
            device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
        except RuntimeError:
            raise UserError(f"'{name}' is no device; use auto, cpu, mps, cuda, cuda:1 or 0,1") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"there is no CUDA device {device.index or 0}; torch sees {torch.cuda.device_count()}")
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


def drawing_compute(device: torch.device, precision: str) -> Compute:
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


def drawing_crew(ldm: LatentDiffusion, sampling: SamplingConfig) -> Crew:
    """On a CPU as many workers as its cores are good for, each with the threads that the UNet can use."""
    if ldm.device.type != "cpu" or ldm.recorded_unet is not None:
        return Crew()
    cores = torch.get_num_threads()
    _, height, width = ldm.config.latent_shape(sampling.height, sampling.width)
    threads = threads_for(sum(weight.numel() for weight in ldm.unet.parameters()), height * width, cores)
    return Crew(workers=cores // threads, threads=threads)


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


def step_recorder(devices: list[torch.device], compile_: str = "auto") -> Record | None:
    """What records training steps: a CUDA graph, where there is CUDA and `--compile` isn't `off`."""
    return record_cuda_graph if devices[0].type == "cuda" and compile_ != "off" else None


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


@contextlib.contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turns the device's out-of-memory error into one that says what would fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the device's memory is too small for this: {advice}") from error

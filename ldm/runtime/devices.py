"""From `--device` and `--devices` to torch's."""

import torch

from ldm.errors import UserError


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


def _has_mps() -> bool:
    return torch.backends.mps.is_available()

"""How much memory a device can still give to this process."""

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a CUDA device, with those that torch keeps for later; None for other kinds of devices.

    Asking makes a context on the device, which takes some hundred MB there until the process ends: only a device that
    this process computes on should be asked for.
    """
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def total_memory(device: torch.device) -> int | None:
    """Bytes of a CUDA device, whoever has them now; None for other kinds of devices."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None

"""From `--compile` to how the UNet is called while drawing, and to what records training steps."""

import torch

from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from ldm.nn.static_call import Record, StaticCall, record_compiled, record_cuda_graph

RECORDERS: dict[str, Record] = {"graphs": record_cuda_graph, "full": record_compiled}
"""The ways of `--compile`, besides `off` and `auto`."""

CALLS_WORTH_RECORDING = 100
"""With the same weights. Recording a CUDA graph costs about six calls (warm-up, capture, a comparison), little of a
hundred. What a replay saves is at most the time that Python needs for a call: much of it for a small batch on a fast
GPU, nothing where the GPU is the slower of the two. Four pictures of 50 steps, drawn together, are 50 calls; 200 class
pictures of 20 steps, 16 at a time, are 260."""


def refuse_graphs_without_cuda(asked: str, device: torch.device) -> None:
    """Raises `UserError` where `--compile graphs` is not possible."""
    if asked == "graphs" and device.type != "cuda":
        raise UserError(f"--compile graphs needs a CUDA device, not {device.type}; use auto, full or off")


def speed_up(ldm: LatentDiffusion, asked: str, unet_calls: int) -> None:
    """Lets the model draw by `--compile`; `unet_calls` are to come with these weights."""
    refuse_graphs_without_cuda(asked, ldm.device)
    if asked == "auto":
        asked = "graphs" if ldm.device.type == "cuda" and unet_calls >= CALLS_WORTH_RECORDING else "off"
    if asked == "off":
        ldm.recorded_unet = None
        return
    if asked == "full":  # the compiler's convolutions take them as they are
        ldm.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    if ldm.recorded_unet is None:
        ldm.recorded_unet = StaticCall(ldm.unet, RECORDERS[asked])


def step_recorder(devices: list[torch.device], compile_: str = "auto") -> Record | None:
    """What records training steps: a CUDA graph, where there is CUDA and `--compile` isn't `off`."""
    return record_cuda_graph if devices[0].type == "cuda" and compile_ != "off" else None

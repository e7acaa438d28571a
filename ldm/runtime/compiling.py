"""From `--compile` to how the UNet is called while drawing, and to what records training steps."""

import torch

from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from ldm.nn.graphed import GraphedCall, Record, capture_compiled, capture_cuda_graph

CAPTURES: dict[str, Record] = {"graphs": capture_cuda_graph, "full": capture_compiled}
"""The ways of `--compile`, besides `off` and `auto`."""

CALLS_WORTH_CAPTURING = 100
"""With the same weights. Recording a CUDA graph costs about six calls (warm-up, capture, a comparison), little of a
hundred. What a replay saves is at most the time that Python needs for a call: much of it for a small batch on a fast
GPU, nothing where the GPU is the slower of the two. Four images of 50 steps, drawn together, are 50 calls; 200 class
images of 20 steps, 16 at a time, are 260."""


def refuse_graphs_without_cuda(asked: str, device: torch.device) -> None:
    """Raises `UserError` where `--compile graphs` is not possible."""
    if asked == "graphs" and device.type != "cuda":
        raise UserError(f"--compile graphs needs a CUDA device, not {device.type}; use auto, full or off")


def accelerate_unet(ldm: LatentDiffusion, asked: str, unet_calls: int) -> None:
    """Lets the model draw by `--compile`; `unet_calls` are to come with these weights."""
    refuse_graphs_without_cuda(asked, ldm.device)
    if asked == "auto":
        asked = "graphs" if ldm.device.type == "cuda" and unet_calls >= CALLS_WORTH_CAPTURING else "off"
    if asked == "off":
        ldm.graphed_unet = None
        return
    if asked == "full":  # the compiler's convolutions take them as they are
        ldm.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    if ldm.graphed_unet is None:
        ldm.graphed_unet = GraphedCall(ldm.unet, CAPTURES[asked])


def step_capture(devices: list[torch.device], compile_: str = "auto") -> Record | None:
    """What records training steps: a CUDA graph, where there is CUDA and `--compile` isn't `off`."""
    return capture_cuda_graph if devices[0].type == "cuda" and compile_ != "off" else None

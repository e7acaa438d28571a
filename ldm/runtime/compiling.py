"""`--compile`: whether the UNet's calls and training steps are CUDA graphs, compiled, or eager."""

import torch

from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from ldm.nn.graphed import Capture, GraphedCall, capture_compiled, capture_cuda_graph

CAPTURES: dict[str, Capture] = {"graphs": capture_cuda_graph, "full": capture_compiled}
"""The values of `--compile` besides `off` and `auto`."""

CALLS_WORTH_CAPTURING = 100
"""The least number of UNet calls with the same weights for which a CUDA graph is captured. Capturing costs about six
calls (warm-up, capture, a comparison). A replay saves at most Python's time for a call: much of it for a small batch on
a fast GPU, nothing where the GPU is the slower of the two. Four images of 50 steps in one batch are 50 calls; 200 class
images of 20 steps in batches of 16 are 260."""


def refuse_graphs_without_cuda(compile_: str, device: torch.device) -> None:
    """Raises `UserError` for `--compile graphs` on a device without CUDA graphs."""
    if compile_ == "graphs" and device.type != "cuda":
        raise UserError(f"--compile graphs needs a CUDA device, not {device.type}; use auto, full or off")


def compile_unet(ldm: LatentDiffusion, compile_: str, unet_calls: int) -> None:
    """Sets `ldm.graphed_unet` by `--compile`, for `unet_calls` calls with the same weights."""
    refuse_graphs_without_cuda(compile_, ldm.device)
    if compile_ == "auto":
        compile_ = "graphs" if ldm.device.type == "cuda" and unet_calls >= CALLS_WORTH_CAPTURING else "off"
    if compile_ == "off":
        ldm.graphed_unet = None
        return
    if compile_ == "full":  # the memory format of the compiler's convolutions
        ldm.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    if ldm.graphed_unet is None:
        ldm.graphed_unet = GraphedCall(ldm.unet, CAPTURES[compile_])


def step_capture(devices: list[torch.device], compile_: str = "auto") -> Capture | None:
    """How training steps are captured: as CUDA graphs on CUDA unless `--compile` is `off`, else not at all."""
    return capture_cuda_graph if devices[0].type == "cuda" and compile_ != "off" else None

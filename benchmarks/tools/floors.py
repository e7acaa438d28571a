"""The least possible time: the counted arithmetic over the measured speed of this machine.

Only matrix products and convolutions count, and the memory traffic of a step's optimizer: elementwise work could be
fused into these. A multiplication and an addition are two operations.
"""

import functools
import statistics
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tools.measuring import seconds
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.nn.memory import weightless

ADAMW_BYTES = 28
"""Of memory moved for each float32 weight: it, its gradient and two moments are read, all but the gradient written."""


@dataclass(frozen=True)
class Counted:
    """Operations of one pass of each network at a size of image, per image or prompt."""

    unet: float
    unet_training: float
    """Forward and backward, all weights trained."""
    encode: float
    decode: float
    text: float
    text_training: float
    unet_weights: int
    text_weights: int

    def image(self, num_steps: int) -> float:
        """Operations of an image with guidance; its two prompts are encoded once for many."""
        return 2 * num_steps * self.unet + self.decode

    def step(self, images: int, train_text_encoder: bool) -> float:
        """Operations of a training step on encoded latents."""
        text = 2 * self.text_training if train_text_encoder else 0.0
        return images * self.unet_training + text

    def optimizer_bytes(self, train_text_encoder: bool) -> float:
        """Bytes that AdamW moves through memory in a step."""
        return ADAMW_BYTES * (self.unet_weights + (self.text_weights if train_text_encoder else 0))


@functools.cache
def count(config: LatentDiffusionConfig, pixels: int) -> Counted:
    """Runs the networks without numbers (on the meta device) and counts."""
    with weightless():
        ldm = LatentDiffusion(config)
        latents = torch.empty(1, *config.latent_shape(pixels, pixels))
        ids = torch.zeros(1, config.text_encoder.max_position_embeddings, dtype=torch.int64)
        context = torch.empty(1, ids.shape[1], config.unet.context_dim)
        timesteps = torch.zeros(1, dtype=torch.int64)
        images = torch.empty(1, config.autoencoder.in_channels, pixels, pixels)

        def unet() -> torch.Tensor:
            return ldm.unet(latents, timesteps, context)

        with torch.no_grad():
            forward = [
                _operations(work)
                for work in (
                    unet,
                    lambda: ldm.autoencoder.encode(images),
                    lambda: ldm.autoencoder.decode(latents),
                    lambda: ldm.text_encoder(ids),
                )
            ]
        return Counted(
            unet=forward[0],
            unet_training=_operations(lambda: unet().sum().backward()),
            encode=forward[1],
            decode=forward[2],
            text=forward[3],
            text_training=_operations(lambda: ldm.text_encoder(ids).sum().backward()),
            unet_weights=_size(ldm.unet),
            text_weights=_size(ldm.text_encoder),
        )


def _operations(work: "object") -> float:
    with FlopCounterMode(display=False) as counter:
        work()  # type: ignore[operator]
    return float(counter.get_total_flops())


def _size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@dataclass(frozen=True)
class Speed:
    """The best speed of a machine."""

    tflops: float
    """10^12 operations a second in the product of two square matrices of random numbers."""
    copy_gbs: float
    """10^9 bytes a second, read and written, in copying one long tensor."""

    def matrix_seconds(self, operations: float) -> float:
        """At least this long."""
        return operations / (1e12 * self.tflops)

    def traffic_seconds(self, moved: float) -> float:
        """At least this long, of bytes."""
        return moved / (1e9 * self.copy_gbs)

    def __str__(self) -> str:
        return f"{self.tflops:.3g} TFLOP/s in matrix products, {self.copy_gbs:.3g} GB/s in copying"


def measure_speed(device: torch.device, dtype: torch.dtype, runs: int = 5) -> Speed:
    """The medians of a few runs, after one warm-up."""
    side, length = (8192, 1 << 30) if device.type == "cuda" else (1024, 1 << 25)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.randn(length // 4, device=device)
    target = torch.empty_like(source)
    multiplied = [seconds(lambda: torch.mm(a, b, out=product), device) for _ in range(runs + 1)]
    copied = [seconds(lambda: target.copy_(source), device) for _ in range(runs + 1)]
    return Speed(
        tflops=2 * side**3 / statistics.median(multiplied[1:]) / 1e12,
        copy_gbs=2 * 4 * len(source) / statistics.median(copied[1:]) / 1e9,
    )

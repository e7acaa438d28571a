"""Small layers that UNet and autoencoder share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int, eps: float, num_groups: int = 32) -> nn.GroupNorm:
    """Group normalisation, over 32 groups in Stable Diffusion; narrow networks need fewer.

    `eps` is 1e-5 in the UNet's residual blocks and 1e-6 everywhere else. A channel that is a group of its own loses its
    mean, which in an image is its colour: four channels per group, as in Stable Diffusion's autoencoder, keep it.
    """
    return nn.GroupNorm(num_groups, channels, eps=eps)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution: the same linear map at every pixel."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


class Upsample(nn.Module):
    """Nearest neighbour times two, then a convolution: (b c h w) -> (b c 2h 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def zero_init(module: nn.Module) -> nn.Module:
    """Sets every parameter to zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of (b,) timesteps, integers or fractions, as (b, dim) float32: cosines first, then sines.

    Attention Is All You Need (arXiv 1706.03762), section 3.5, with frequencies max_period^(-i / (dim/2)).
    """
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    )
    angles = timesteps[:, None].float() * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))

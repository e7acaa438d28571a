"""Numbers in fewer bits: moments in 8, weights in 24 or 16, all rounded up or down at random.

The mean error of such rounding is zero. Rounding to the nearest would stop an optimizer: a step often changes a moment
or a weight by less than half the distance to the next value, and each such change would be lost.
"""

import torch
from torch import Tensor

BLOCK = 256
"""Neighbours that share a scale, the largest of their magnitudes (arXiv 2110.02861, section 2.1)."""
SIGNED, UNSIGNED = 127, 255
"""Steps between zero and the scale."""
TINY = torch.finfo(torch.float32).tiny


def encode(values: Tensor, uniform: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Float32 values (n,), n a multiple of `BLOCK` -> codes (n,) int8 (unsigned: uint8), scales (n/256, 1) float32.

    `uniform` are random numbers (n,) in [0, 1). A code q of N steps stands for (q / N)^2 times the scale: fine near
    zero, where most values of a block lie, down to 6e-5 (unsigned: 1.5e-5) of the scale. With y = N sqrt(value / scale)
    it is floor(y + uniform), so that the error is below (2 y + 1) / y^2 of the value: 1.6 % (0.8 %) at the scale, 5 %
    (2.5 %) at a tenth of it. Unsigned values must not be negative; only zero becomes zero.
    """
    steps = SIGNED if signed else UNSIGNED
    blocks = values.view(-1, BLOCK)
    codes = blocks.abs()
    scales = codes.amax(dim=1, keepdim=True)
    codes = codes.div_(scales.clamp(min=TINY)).sqrt_().mul_(steps).add_(uniform.view_as(blocks)).floor_()
    codes = codes.clamp_(max=steps)
    codes = codes.copysign_(blocks) if signed else torch.maximum(codes, (blocks > 0).to(codes))
    return codes.to(torch.int8 if signed else torch.uint8).view(-1), scales


def decode(codes: Tensor, scales: Tensor) -> Tensor:
    """The values (n,) float32 that codes and scales of `encode` stand for."""
    steps = SIGNED if codes.dtype == torch.int8 else UNSIGNED
    values = codes.view(-1, BLOCK).to(torch.float32).div_(steps)
    return values.mul_(values.abs()).mul_(scales).view(-1)


def split_float32(values: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 (n,) -> its nearest bfloat16 (n,) and the next 8 bits (n,) int8, together rounded at random to 24 bits.

    The low part counts 1/256 of the step between two neighbours of bfloat16, and may be negative. `uniform` as above.
    """
    bits = values.view(torch.int32) + (uniform * 256).to(torch.int32)
    low = (bits >> 8).to(torch.int8)  # the second byte, as a signed one
    high = (bits + 0x8000) & -0x10000
    return high.view(torch.float32).to(torch.bfloat16), low


def join_float32(high: Tensor, low: Tensor) -> Tensor:
    """The float32 (n,) of which `split_float32` kept 24 bits."""
    bits = high.to(torch.float32).view(torch.int32)
    return bits.add_(low.to(torch.int32) << 8).view(torch.float32)


def round_to_bfloat16(values: Tensor, uniform: Tensor) -> Tensor:
    """Float32 -> bfloat16 of the same shape, rounded at random to one of the two neighbours. `uniform` as above."""
    bits = values.view(torch.int32) + (uniform * 0x10000).to(torch.int32)
    return (bits & -0x10000).view(torch.float32).to(torch.bfloat16)

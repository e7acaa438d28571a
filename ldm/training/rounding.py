"""Numbers in fewer bits, rounded up or down at random so that on average nothing is lost.

Rounding to the nearest would stop an optimizer: what a moment or a weight changes by in a step is often less than half
the distance to its neighbour, and would be rounded away in each. `uniform` are random numbers (n,) in [0, 1).
"""

import torch
from torch import Tensor

BLOCK = 256
"""So many neighbours share a scale, the largest of their magnitudes (arXiv 2110.02861, section 2.1)."""
SIGNED, UNSIGNED = 127, 255
"""Steps between zero and the scale."""
TINY = torch.finfo(torch.float32).tiny


def encode(values: Tensor, uniform: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Float32 values (n,), n a multiple of `BLOCK` -> codes (n,) int8 (unsigned: uint8), scales (n/256, 1) float32.

    A code q of N steps means (q / N)^2 times the scale: fine near zero, where most values of a block lie, down to
    6e-5 (unsigned: 1.5e-5) of the scale. With y = N sqrt(value / scale) it is floor(y + uniform), so that the error is
    below (2 y + 1) / y^2 of the value: 1.6 % (0.8 %) at the scale, 5 % (2.5 %) at a tenth of it. Unsigned values, none
    of them negative, never become zero unless they are.
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
    """What `encode` has made codes and scales of: (n,) float32."""
    steps = SIGNED if codes.dtype == torch.int8 else UNSIGNED
    values = codes.view(-1, BLOCK).to(torch.float32).div_(steps)
    return values.mul_(values.abs()).mul_(scales).view(-1)


def split_float32(values: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 (n,) -> its nearest bfloat16 (n,) and the next 8 bits (n,) int8, together rounded at random to 24 bits.

    The low part counts 1/256 of the step between two neighbours of bfloat16, and may be negative.
    """
    bits = values.view(torch.int32) + (uniform * 256).to(torch.int32)
    low = (bits >> 8).to(torch.int8)  # the second byte, as a signed one
    high = (bits + 0x8000) & -0x10000
    return high.view(torch.float32).to(torch.bfloat16), low


def join_float32(high: Tensor, low: Tensor) -> Tensor:
    """The float32 (n,) that `split_float32` has kept 24 bits of."""
    bits = high.to(torch.float32).view(torch.int32)
    return bits.add_(low.to(torch.int32) << 8).view(torch.float32)

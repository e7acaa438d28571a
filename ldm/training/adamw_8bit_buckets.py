"""Ranges of weights that 8-bit AdamW updates as one vector, what it keeps of them, and the update itself.

This update is plain torch: the reference for the kernel in `ldm.training.adamw_8bit_kernel`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldm.training.rounding import BLOCK, decode, encode, join_float32, round_to_bfloat16, split_float32


@dataclass(frozen=True)
class Slice:
    """A range of a weight's numbers, in memory order."""

    parameter: nn.Parameter
    start: int
    length: int

    def of(self, tensor: Tensor) -> Tensor:
        """The range (length,) of the weight or its gradient, as a view."""
        if tensor.stride() != self.parameter.stride():
            tensor = torch.empty_like(self.parameter, dtype=tensor.dtype).copy_(tensor)
        return tensor.as_strided((self.length,), (1,), tensor.storage_offset() + self.start)


@dataclass(frozen=True)
class Bucket:
    """Slices of one dtype, updated as one vector."""

    slices: tuple[Slice, ...]
    exact: bool
    """Whether moments are stored in float32."""

    @property
    def padding(self) -> int:
        """Zeros appended to complete the last block."""
        return -self.length % BLOCK

    @property
    def length(self) -> int:
        """How many numbers of weights it has."""
        return sum(one.length for one in self.slices)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.slices[0].parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.slices[0].parameter.dtype

    def weights(self) -> list[Tensor]:
        """Views of the weights."""
        return [one.of(one.parameter.detach()) for one in self.slices]

    def gradients(self) -> list[Tensor]:
        """Views of the gradients; zeros for missing ones."""
        return [
            one.of(one.parameter.grad) if one.parameter.grad is not None else torch.zeros_like(one.of(one.parameter))
            for one in self.slices
        ]

    def gathered(self, parts: list[Tensor]) -> Tensor:
        """The parts as one float32 vector of whole blocks."""
        return torch.cat([*parts, parts[0].new_zeros(self.padding)]).float()

    def scatter(self, vector: Tensor) -> None:
        """Writes the vector into the weights."""
        lengths = [one.length for one in self.slices]
        torch._foreach_copy_(self.weights(), list(vector[: sum(lengths)].split(lengths)))


def packed(parameters: list[nn.Parameter], most: int, exact: bool) -> Iterator[Bucket]:
    """The weights one after the other in buckets of `most` numbers; a full bucket cuts a weight in two."""
    slices: list[Slice] = []
    room = most
    for parameter in parameters:
        start = 0
        while start < parameter.numel():
            length = min(room, parameter.numel() - start)
            slices.append(Slice(parameter, start, length))
            start, room = start + length, room - length
            if not room:
                yield Bucket(tuple(slices), exact)
                slices, room = [], most
    if slices:
        yield Bucket(tuple(slices), exact)


def new_state(bucket: Bucket, keep_low_bits: bool) -> dict[str, Any]:
    """Moments of zeros, and 8 more bits of each weight in bfloat16, if they are kept."""
    count = bucket.length + bucket.padding

    def zeros(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=bucket.device)

    state: dict[str, Any] = {"step": 0}
    if bucket.exact:
        state |= {key: zeros((count,), torch.float32) for key in ("first", "root")}
    else:
        state |= {"first": zeros((count,), torch.int8), "root": zeros((count,), torch.uint8)}
        state |= {key: zeros((count // BLOCK, 1), torch.float32) for key in ("first_scales", "root_scales")}
    if keep_low_bits and bucket.dtype == torch.bfloat16:
        state["low"] = zeros((count,), torch.int8)
    return state


def update(bucket: Bucket, state: dict[str, Any], group: dict[str, Any], uniform: Tensor) -> None:
    """One step of AdamW on a bucket (arXiv 1711.05101, algorithm 2, lines 6 to 12); `state["step"]` counts from 1.

    `uniform`: random numbers in [0, 1), one for each number of the bucket and its padding.
    """
    (beta1, beta2), rate, step = group["betas"], group["lr"], state["step"]
    gradient = bucket.gathered(bucket.gradients())

    first = state["first"] if bucket.exact else decode(state["first"], state["first_scales"])
    first.lerp_(gradient, 1 - beta1)
    root = state["root"] if bucket.exact else decode(state["root"], state["root_scales"])
    root.square_().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2).sqrt_()
    del gradient
    if not bucket.exact:
        for key, moment in (("first", first), ("root", root)):
            codes, scales = encode(moment, uniform, signed=key == "first")
            state[key].copy_(codes)
            state[f"{key}_scales"].copy_(scales)

    weight = _weight(bucket, state)
    weight.mul_(1 - rate * group["weight_decay"])
    denominator = (root / (1 - beta2**step) ** 0.5).add_(group["eps"])
    weight.addcdiv_(first, denominator, value=-rate / (1 - beta1**step))
    _write(bucket, state, weight, uniform)


def pull(bucket: Bucket, state: dict[str, Any], targets: list[Tensor], share: float, uniform: Tensor) -> None:
    """Moves a bucket's weights by a share of their distance to targets, one for each slice; rounds as `update`."""
    target = bucket.gathered([one.to(bucket.device, bucket.dtype) for one in targets])
    _write(bucket, state, _weight(bucket, state).lerp(target, share), uniform)


def _weight(bucket: Bucket, state: dict[str, Any]) -> Tensor:
    """The weights with all their bits, as one float32 vector."""
    weight = bucket.gathered(bucket.weights())
    return join_float32(weight, state["low"]) if "low" in state else weight


def _write(bucket: Bucket, state: dict[str, Any], weight: Tensor, uniform: Tensor) -> None:
    """Writes a float32 vector into the weights, and their further bits into the state."""
    if "low" in state:
        weight, low = split_float32(weight, uniform)
        state["low"].copy_(low)
    elif bucket.dtype == torch.bfloat16:
        weight = round_to_bfloat16(weight, uniform)
    bucket.scatter(weight)

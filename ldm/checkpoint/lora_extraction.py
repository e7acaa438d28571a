"""A LoRA from the difference of two checkpoints: for each layer the closest matrices of low rank.

A truncated singular-value decomposition is the closest matrix of its rank (Eckart and Young, 1936). It is computed
from the eigenvectors of the smaller of both Gram matrices in float64, which takes a fraction of a decomposition's time.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ldm.checkpoint.lora import LowRank

NOISE = 1e-12
"""Squared singular values below this share of the largest are rounding errors of the decomposition."""


@dataclass(frozen=True)
class RankLimit:
    """How many ranks a layer gets: as many as keep a share of its squared norm, and at most so many."""

    largest: int | None = None
    keep: float | None = None

    def of(self, squares: Tensor) -> int:
        """For squared singular values in descending order; 0 if all are zero."""
        rank = int((squares > NOISE * squares[0]).sum())
        if self.keep is not None:
            kept = squares.cumsum(0) < self.keep * squares.sum()
            rank = min(rank, int(kept.sum()) + 1)
        return rank if self.largest is None else min(rank, self.largest)


@dataclass
class Share:
    """How much of a change a LoRA holds, as sums of squares."""

    whole: float = 0.0
    """Of the layers that have a place in it."""
    kept: float = 0.0
    without_place: dict[str, float] = field(default_factory=dict)
    """Of changed weights that have none, by key."""

    @property
    def everything(self) -> float:
        """Of all changes."""
        return self.whole + sum(self.without_place.values())

    @property
    def percent(self) -> float:
        """What is kept of all changes."""
        return 100 * self.kept / self.everything if self.everything else 100.0


def extracted(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    keys: Iterable[str],
    layers: Collection[str],
    limit: RankLimit,
    share: Share,
) -> Iterator[tuple[str, LowRank | None]]:
    """The changes of the weights `keys` of a fine-tuned model, with matrices of the type of each weight.

    None for an unchanged weight, and for one that is not among the `layers` that get matrices; `share` counts those.
    """
    for key in keys:
        weight, before = tuned[key], base[key]
        low = None
        if not is_unchanged(weight, before):
            change = weight.double() - before.double()
            if key in layers:
                low = truncated(change, limit, stored_type(weight.dtype), share)
            else:
                share.without_place[key] = float(change.square().sum())
        yield key, low


def resized(change: LowRank, shape: torch.Size, limit: RankLimit, share: Share) -> LowRank | None:
    """The closest change of a smaller rank, of a weight with this shape."""
    whole = change.delta(torch.zeros(shape, dtype=torch.float64))
    return truncated(whole, limit, change.up.dtype, share)


def is_unchanged(weight: Tensor, base: Tensor) -> bool:
    """Whether two weights are the same, or one is the other's copy in a smaller type."""
    if weight.dtype == base.dtype:
        return torch.equal(weight, base)
    return torch.equal(weight.to(base.dtype), base) or torch.equal(base.to(weight.dtype), weight)


def stored_type(dtype: torch.dtype) -> torch.dtype:
    """The type of matrices for weights of a type: the same, or float16 instead of 8 bits."""
    return torch.float16 if dtype.itemsize == 1 else dtype


def truncated(change: Tensor, limit: RankLimit, dtype: torch.dtype, share: Share) -> LowRank | None:
    """The closest change of a limited rank to a float64 `change` (out in) or (out in k k); None if it is zero.

    Both matrices get the root of each singular value: neither becomes too small for half precision.
    """
    matrix = change.flatten(1)
    is_tall = matrix.shape[0] > matrix.shape[1]
    if is_tall:
        matrix = matrix.mT
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    share.whole += float(squares.sum())
    rank = limit.of(squares)
    share.kept += float(squares[:rank].sum())
    if not rank:
        return None
    roots = squares[:rank] ** 0.25
    left = vectors[:, :rank] * roots
    right = (vectors[:, :rank].mT @ matrix) / roots[:, None]
    up, down = (right.mT, left.mT) if is_tall else (left, right)
    out, *inside = change.shape
    ones = [1] * (len(inside) - 1)
    return LowRank(up.reshape(out, rank, *ones).to(dtype), down.reshape(rank, *inside).to(dtype), 1.0)

"""Many vectors and rays at once: one column each, (3 n)."""

from dataclasses import dataclass

from torch import Tensor


def take(columns: Tensor, index: Tensor) -> Tensor:
    """The columns, or numbers, at `index` (m,); several times as fast as `columns[:, index]` on the CPU."""
    return columns.index_select(-1, index)


def put(columns: Tensor, index: Tensor, values: Tensor) -> None:
    """Replaces the columns, or numbers, at `index` (m,) in place."""
    columns.index_copy_(-1, index, values)


def indices(mask: Tensor) -> Tensor:
    """Where the mask (n,) holds, in order."""
    return mask.nonzero()[:, 0]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(n,)"""
    return (a * b).sum(0)


def unit(vectors: Tensor) -> Tensor:
    """The vectors at length 1; zero stays zero."""
    return vectors / dot(vectors, vectors).sqrt().clamp(min=1e-12)


@dataclass(frozen=True)
class Rays:
    """Rays through the scenes of a pass."""

    scene: Tensor
    """(n,) int64: in which scene."""
    origin: Tensor
    direction: Tensor
    """(3 n) each, in the world; directions have length 1."""

    def of(self, index: Tensor) -> "Rays":
        """The rays at `index`."""
        return Rays(take(self.scene, index), take(self.origin, index), take(self.direction, index))

    def at(self, distance: Tensor) -> Tensor:
        """The points (3 n) at a distance (n,) along the rays."""
        return self.origin + distance * self.direction

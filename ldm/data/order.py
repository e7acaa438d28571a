"""An endless shuffled order that is a function of (seed, position) alone, so that a training may continue anywhere."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from ldm.diffusion.noise import derived_generator


@dataclass(frozen=True)
class ShuffledOrder:
    """`order(position) -> index`: each of `size` indices comes up once before any comes up again, newly shuffled.

    `stream` tells several orders of one seed apart.
    """

    size: int
    seed: int
    stream: int = 0

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        return _permutation(self, epoch)[place]


@lru_cache(maxsize=4)
def _permutation(order: ShuffledOrder, epoch: int) -> list[int]:
    generator = derived_generator(order.seed, 1 + order.stream, epoch, order.size)
    permutation: list[int] = torch.randperm(order.size, generator=generator).tolist()
    return permutation

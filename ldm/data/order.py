"""An endless shuffled order that is a function of (seed, position) alone, so that a training may continue anywhere."""

from functools import lru_cache

import torch

from ldm.diffusion.noise import derived_generator


class ShuffledOrder:
    """`order(position) -> index`: each of `size` indices comes up once before any comes up again, newly shuffled.

    `stream` tells several orders of one seed apart.
    """

    def __init__(self, size: int, seed: int, stream: int = 0) -> None:
        self.size = size
        self._permutation = lru_cache(maxsize=2)(
            lambda epoch: torch.randperm(size, generator=derived_generator(seed, 1 + stream, epoch, size)).tolist()
        )

    def __call__(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        index: int = self._permutation(epoch)[place]
        return index

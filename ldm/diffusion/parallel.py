"""Several draw at the same time: a small network doesn't fill a CPU's cores, but each core can draw an image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from ldm.background import map_ahead

Item = TypeVar("Item")
Drawn = TypeVar("Drawn")

WORK_PER_THREAD = 2e10
"""Weights times latent pixels. The tiny model at 64 pixels, 3e9, is slower with two threads than with one; Stable
Diffusion at 512 pixels, 4e12, takes as many as there are."""


def threads_for(weights: int, latent_pixels: int, cores: int) -> int:
    """How many threads a UNet of so many weights can use for one image.

    It doesn't depend on how many images there are to draw: the number of threads decides how numbers are rounded.
    """
    return max(1, min(cores, round(weights * latent_pixels / WORK_PER_THREAD)))


@dataclass(frozen=True)
class WorkerPool:
    """So many workers, each of which computes with so many threads. A crew of one works where it is called."""

    workers: int = 1
    threads: int | None = None
    """None: as many as torch takes by itself."""

    def draw(self, items: Sequence[Item], draw: Callable[[Item], Drawn]) -> Iterator[tuple[Item, Drawn]]:
        """Each item with what `draw` makes of it, in order; an error is raised in its turn, and nothing new is begun.

        Besides the one that is waited for, as many as there are workers are drawn ahead.
        """
        if self.workers == 1:
            for item in items:
                yield item, draw(item)
            return
        before, set_threads = torch.get_num_threads(), partial(torch.set_num_threads, self.threads or 1)
        try:
            with closing(map_ahead(draw, items, self.workers, self.workers, set_threads)) as drawn:
                yield from zip(items, drawn, strict=True)
        finally:
            torch.set_num_threads(before)  # the number that new threads begin with

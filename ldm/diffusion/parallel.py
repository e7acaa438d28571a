"""Sample images in parallel on CPU cores: one image of a small network doesn't fill them."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from ldm.background import map_ahead

Item = TypeVar("Item")
Result = TypeVar("Result")

WORK_PER_THREAD = 2e10
"""Weights times latent pixels. The tiny model at 64 pixels, 3e9, is slower with two threads than with one; Stable
Diffusion at 512 pixels, 4e12, can use all cores."""


def threads_for(weights: int, latent_pixels: int, cores: int) -> int:
    """How many threads a UNet of so many weights can use for one image.

    Independent of the number of images, because rounding depends on the number of threads.
    """
    return max(1, min(cores, round(weights * latent_pixels / WORK_PER_THREAD)))


@dataclass(frozen=True)
class WorkerPool:
    """A number of workers, each with a number of threads. A single worker computes in the calling thread."""

    workers: int = 1
    threads: int | None = None
    """None: torch's default."""

    def map(
        self, items: Sequence[Item], function: Callable[[Item], Result]
    ) -> Generator[tuple[Item, Result], None, None]:
        """Each item with `function(item)`, in order. An error is raised at its item's turn; no other item is begun.

        Works on as many items ahead of the next result as there are workers. After an error, an interrupt or `close`
        the workers end before their next network call.
        """
        if self.workers == 1:
            for item in items:
                yield item, function(item)
            return
        original, set_threads = torch.get_num_threads(), partial(torch.set_num_threads, self.threads or 1)
        try:
            with closing(map_ahead(function, items, self.workers, self.workers, set_threads)) as results:
                yield from zip(items, results, strict=True)
        finally:
            torch.set_num_threads(original)  # the number that new threads begin with

"""Sample images in parallel on CPU cores: one image of a small network doesn't fill them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

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

    def map(self, items: Sequence[Item], function: Callable[[Item], Result]) -> Iterator[tuple[Item, Result]]:
        """Each item with `function(item)`, in order. An error is raised at its item's turn; no other item is begun.

        Works on as many items ahead of the next result as there are workers.
        """
        if self.workers == 1:
            for item in items:
                yield item, function(item)
            return
        original, threads = torch.get_num_threads(), self.threads or 1
        begun = deque[tuple[Item, Future[Result]]]()
        pool = ThreadPoolExecutor(self.workers, "sample", initializer=torch.set_num_threads, initargs=(threads,))
        try:
            for item in items:
                begun.append((item, pool.submit(function, item)))
                if len(begun) > self.workers:
                    done, future = begun.popleft()
                    yield done, future.result()
            while begun:
                done, future = begun.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(original)  # which new threads start with

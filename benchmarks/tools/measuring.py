"""Fair timing: contenders take turns, the first turns are not counted, medians are given with their range."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.tools.reporting import say


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def scaled(self, factor: float) -> "Spread":
        """In another unit."""
        return Spread(tuple(factor * value for value in self.values))

    def __str__(self) -> str:
        """Such as `1.42 (1.40 to 1.51)`."""
        return f"{digits(self.median)} ({digits(min(self.values))} to {digits(max(self.values))})"


def digits(value: float) -> str:
    """Three significant digits."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 or not size else f"{value:.3g}" if size >= 0.001 else f"{value:.1e}"


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, until the device has done all of it."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


Turn = Callable[[], float]
"""Does the work once and returns its timed seconds."""


def take_turns(turns: Mapping[str, Turn], runs: int, warmup: int = 1) -> dict[str, Spread]:
    """Each contender's seconds: A B A B ..., so that a machine that slows down slows all; `warmup` rounds are left out.

    A contender for which the device's memory is too small is left out with a note.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    for run in range(warmup + runs):
        for name in list(times):
            try:
                taken = turns[name]()
            except torch.OutOfMemoryError:
                say(f"{name}: the device's memory is too small for it")
                del times[name]
                continue
            finally:
                gc.collect()  # reference cycles of Lightning and accelerate would keep gradients alive
            if run >= warmup:
                times[name].append(taken)
    return {name: Spread(tuple(values)) for name, values in times.items() if values}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times as fast, turn by turn: neighbours in time, so that a slow moment of the machine cancels out."""
    return Spread(tuple(a / b for a, b in zip(slow, fast, strict=True)))

"""Bounds of the numbers in configs and flags: a stranger's file may set ten million layers, or none.

A run record is checked like the command line: YAML files and flags have the same bounds.
"""

import reprlib
from collections.abc import Collection
from typing import Any

LARGEST_WIDTH = 65_536
"""Channels of a layer, or numbers in a vector."""
LARGEST_SIDE = 100_000
"""Pixels on a side of an image. Memory is too small long before; that error gives the numbers."""
MOST_TOGETHER = 100_000
"""Images in a batch."""
MOST_CLASS_IMAGES = 1_000_000
MOST_UPDATES = 10**9
"""Optimizer steps of a training."""
MOST_TIMESTEPS = 10_000
"""Of a noise schedule."""
MOST_STEPS = 1000
"""Steps of a sampler."""
HIGHEST_RANK = 1024
"""Of an adapter."""
MOST_VECTORS = 1000
"""Of a learned word. A prompt has room for far fewer; that error gives the number."""
LARGEST_SCALE = 1000
"""The guidance scale, positive or negative."""
LARGEST_FACTOR = 10**6
"""Weights of losses, learning rates and the like."""


def check_range(config: object, low: float, high: float, *names: str) -> None:
    """Raises `ValueError` unless each of these fields is from `low` to `high`. NaN is not."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name} should be from {low:g} to {high:g}, not {reprlib.repr(value)}")


def check_list(config: object, most: int, low: float, high: float, *names: str) -> None:
    """Raises `ValueError` unless each of these fields holds 1 to `most` numbers from `low` to `high`."""
    for name in names:
        check_length(name, values := getattr(config, name), most)
        if not all(low <= value <= high for value in values):
            raise ValueError(f"{name} should hold numbers from {low:g} to {high:g}, not {reprlib.repr(values)}")


def check_length(name: str, values: Collection[Any], most: int) -> None:
    """Raises `ValueError` unless there are 1 to `most` values."""
    if not 1 <= len(values) <= most:
        raise ValueError(f"{name} should hold 1 to {most} values, not {len(values)}")

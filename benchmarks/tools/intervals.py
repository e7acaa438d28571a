"""Shares and means with their 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Z = 1.96
"""Standard errors on either side that hold 95 %."""


@dataclass(frozen=True)
class Count:
    """How many of a total were right."""

    right: int
    total: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.right + other.right, self.total + other.total)

    @property
    def percent(self) -> float:
        """NaN if the total is 0."""
        return 100 * self.right / self.total if self.total else math.nan

    def __str__(self) -> str:
        """Such as `97.1 (96.3 to 97.8)`: percent and their 95 % interval."""
        if not self.total:
            return "-"
        low, high = wilson(self.right, self.total)
        return f"{self.percent:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def wilson(successes: int, trials: int, z: float = Z) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, spread = successes / trials, z * z / trials
    half = z * math.sqrt(share * (1 - share) / trials + spread / trials / 4)
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


@dataclass(frozen=True)
class Mean:
    """A mean and the half width of its 95 % interval, by the standard error."""

    value: float
    half: float
    count: int

    def __str__(self) -> str:
        """Such as `0.712 ± 0.014`."""
        return f"{self.value:.3f} ± {self.half:.3f}"


def mean(values: Sequence[float] | Tensor) -> Mean:
    """Of independent values; the interval of a single one is not known."""
    numbers = torch.as_tensor(values, dtype=torch.float64)
    half = Z * float(numbers.std()) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Mean(float(numbers.mean()), half, len(numbers))

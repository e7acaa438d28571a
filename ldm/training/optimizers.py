"""Optimizers and learning-rate schedules: what `--optimizer` and `--lr-schedule` choose from.

`ldm/choices.py` names the objects. A new optimizer is a file with an `OptimizerKind` and a line there.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ldm.choices import LR_SCHEDULES
from ldm.training.config import OptimizationConfig

Build = Callable[[list[nn.Parameter], OptimizationConfig, int, dict[str, Any]], Optimizer]
"""(weights, config, seed, kernels) -> optimizer. `kernels` are keywords of torch's own: {"fused": True}, or nothing."""


@dataclass(frozen=True)
class OptimizerKind:
    """An entry of `ldm.choices.OPTIMIZERS`."""

    label: str
    """Its name in messages."""
    build: Build
    state_bytes_per_weight: Mapping[str, int]
    """The most bytes that a resume state holds for each weight: the weight and what the optimizer keeps of it. By type
    of the weights (`ldm.choices.TRAIN_DTYPES`); types that are not listed are refused."""
    weightwise: bool = True
    """Whether a weight's update needs no other weight's gradient, so that it can be made in the backward pass."""
    learning_rate: float | None = None
    """The default with this optimizer, if the models' own are not for it."""
    raise_if_missing: Callable[[], object] = dict
    """Raises `UserError` if the optimizer needs a package that is not installed."""


def _adamw(weights: list[nn.Parameter], config: OptimizationConfig, seed: int, kernels: dict[str, Any]) -> Optimizer:
    return torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay, **kernels)


ADAMW = OptimizerKind("AdamW", _adamw, {"fp32": 12})


def constant(progress: float) -> float:
    """The factor is always 1. Here and below `progress` is the share of updates made since the warm-up, in [0, 1)."""
    return 1.0


def linear(progress: float) -> float:
    """The factor falls from 1 to 0 along a line."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """The factor falls from 1 to 0 along half a cosine ("SGDR", arXiv 1608.03983, eq. 5, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def cooldown(progress: float) -> float:
    """The factor is 1, then falls to 0 along a line in the last quarter."""
    return min(1.0, 4.0 * (1.0 - progress))


@dataclass(frozen=True)
class ScheduleOfConfig:
    """An entry of `ldm.choices.LR_SCHEDULES` that depends on more than the progress."""

    of: Callable[[OptimizationConfig], Callable[[float], float]]


def cosine_with_restarts(progress: float, cycles: int) -> float:
    """The factor falls from 1 to 0 along half a cosine, `cycles` times (SGDR, eq. 5, with cycles of equal length)."""
    return cosine(cycles * progress % 1.0) if progress < 1.0 else 0.0


def polynomial(progress: float, power: float) -> float:
    """The factor falls from 1 to 0 as a power of the share of updates that is left."""
    return (1.0 - progress) ** power


COSINE_RESTARTS = ScheduleOfConfig(lambda config: partial(cosine_with_restarts, cycles=config.lr_cycles))
POLYNOMIAL = ScheduleOfConfig(lambda config: partial(polynomial, power=config.lr_power))


def lr_factors(config: OptimizationConfig) -> Callable[[int], float]:
    """Returns a function from an update (from 0) to its rate's factor, in (0, 1]: linear warm-up, then the schedule."""
    schedule: ScheduleOfConfig | Callable[[float], float] = LR_SCHEDULES[config.lr_schedule].load()
    after_warmup = schedule.of(config) if isinstance(schedule, ScheduleOfConfig) else schedule
    warmup_steps, iterations = config.warmup_steps, config.iterations

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return after_warmup((step - warmup_steps) / max(1, iterations - warmup_steps))

    return factor

"""`--vram`: the fastest way of training that fits into the memory there is, and what is said about it."""

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch

from ldm.errors import UserError
from ldm.nn.memory import free_memory
from ldm.runtime.devices import half_dtype
from ldm.training.config import DreamBoothConfig
from ldm.training.memory import (
    COMBINATIONS,
    CUDA_CONTEXT,
    CUDA_OVERHEAD,
    GIB,
    Combination,
    Workload,
    choose,
    plenty,
    predict,
)

log = logging.getLogger(__name__)

FIELDS = tuple(vars(COMBINATIONS[0]))
FLOAT_WEIGHTS = ("full", "fp16-mixed")
"""Values of `--precision` that are not computed with weights in bfloat16."""
USABLE = 0.95
"""Of a card of N GB, which is N GiB, what a process can have: the driver keeps 2 to 4 % for itself. A display, and the
error correction of some cards for data centres, take more."""
SMALLER = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4)
"""Sides that are tried to tell which would fit."""


def fit_into_memory(
    options: argparse.Namespace, config: DreamBoothConfig, workload: Workload, devices: list[torch.device]
) -> DreamBoothConfig:
    """The config with the first of the `COMBINATIONS` whose predicted peak fits; flags that were given stay.

    `--vram` says how much there is; `auto` is what is free on a CUDA device, where the model's own wishes stay, too;
    elsewhere it chooses nothing. Raises `UserError` if nothing fits into what was named.
    """
    fixed = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    if len(fixed) == len(FIELDS):
        return config
    auto = options.vram == "auto"
    budget = _free_on_all(devices) if auto else int(USABLE * float(options.vram) * GIB)
    if budget is None or (auto and budget > plenty(workload, config)):
        return config
    if auto:
        wished = {name: getattr(config, name) for name in FIELDS}
        fixed = {name: value for name, value in wished.items() if value != getattr(DreamBoothConfig(), name)} | fixed
    candidates = [one for one in COMBINATIONS if all(getattr(one, name) == value for name, value in fixed.items())]
    if options.precision in FLOAT_WEIGHTS or half_dtype(devices[0]) != torch.bfloat16:
        candidates = [one for one in candidates if one.train_dtype != "bf16"] or candidates
    overhead = CUDA_OVERHEAD if devices[0].type == "cuda" else 0
    if auto:
        overhead = max(0, overhead - CUDA_CONTEXT)  # what is free was asked from within one
    chosen = choose(workload, config, candidates, budget - overhead)
    if chosen is None:
        said = _too_small(candidates[-1], workload, config, budget, overhead)
        if not auto:
            raise UserError(said)
        log.warning("%s. It is tried nevertheless", said)
        return candidates[-1].applied_to(config)
    combination, prediction = chosen
    log.info(
        "memory: %s\n  predicted peak: %s of %s",
        combination,
        _gib(prediction.peak + overhead),
        _gib(budget),
    )
    return combination.applied_to(config)


def _free_on_all(devices: list[torch.device]) -> int | None:
    """Bytes on the device that has the fewest; None if nobody knows."""
    return min((free for free in _free_on_each(devices) if free is not None), default=None)


def _free_on_each(devices: list[torch.device]) -> list[int | None]:
    """Free memory of each device; several are asked by a process that ends: this one will compute on the first only."""
    if len(devices) == 1:
        return [free_memory(devices[0])]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return list(pool.map(free_memory, devices))


def _too_small(last: Combination, workload: Workload, config: DreamBoothConfig, budget: int, overhead: int) -> str:
    """What is said if even the last candidate doesn't fit."""
    config = last.applied_to(config)
    needed = predict(workload, config).peak + overhead
    said = (
        f"training at {workload.height} x {workload.width} needs {_gib(needed)} even with {last}, "
        f"and there are {_gib(budget)}. "
    )
    multiple = workload.model.size_multiple
    for factor in SMALLER:
        height, width = (int(side * factor) // multiple * multiple for side in (workload.height, workload.width))
        if min(height, width) < multiple:
            break
        if predict(replace(workload, height=height, width=width), config, budget - overhead).peak + overhead <= budget:
            return f"{said}--hw {height} {width} would fit"
    if config.train_text_encoder:
        return f"{said}--no-train-text-encoder needs less"
    if config.batch_size > 1:
        return f"{said}A smaller --batch-size needs less"
    return f"{said}No size fits; another device or --devices cpu may have more"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"

"""`--vram`: chooses the fastest memory profile that fits into the available memory."""

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from typing import Any

import torch

from ldm.diffusion.sampling import SamplingConfig
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.nn.memory import free_memory
from ldm.runtime.devices import Compute, half_dtype
from ldm.runtime.models import Settings
from ldm.terminal import Lines
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import (
    CUDA_CONTEXT,
    CUDA_OVERHEAD,
    GIB,
    Chooser,
    MemoryProfile,
    Workload,
    plenty,
    predict,
    profiles_with,
)

log = logging.getLogger(__name__)

MEMORY_FLAGS = tuple(field.name for field in fields(MemoryProfile))
"""The options that `--vram` sets, unless the user sets them."""
FLOAT_WEIGHTS = ("full", "fp16-mixed")
"""Values of `--precision` that need float32 weights."""
USABLE = 0.95
"""The share of a card of N GB, which is N GiB, that a process can have: the driver keeps 2 to 4 %. A display, and the
error correction of some cards for data centres, take more."""
SMALLER = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4)
"""Shares of a side that are tried to suggest a size that fits."""


def workload_of(
    settings: Settings,
    config: DreamBoothConfig,
    sampling: SamplingConfig,
    devices: list[torch.device],
    compute: Compute,
) -> Workload:
    """What the memory of a run depends on besides its config."""
    return Workload(
        settings.model,
        sampling.height,
        sampling.width,
        with_class=config.class_img_count > 0,
        autocast_dtype=compute.autocast_dtype,
        like_cuda=devices[0].type == "cuda",
        devices=len(devices),
        previews=bool(config.preview_prompts),
    )


def fit_into_memory(
    options: argparse.Namespace, config: DreamBoothConfig, workload: Workload, devices: list[torch.device]
) -> DreamBoothConfig:
    """The config with the first of the `MEMORY_PROFILES` whose predicted peak fits; flags that are set stay.

    `--vram` gives the budget. `auto` is the free memory of a CUDA device, and also keeps what the model's YAML sets; on
    other devices it changes nothing, and a run that is resumed stays as it is. Raises `UserError` if nothing fits into
    a budget that was given, if `--precision` needs float32 weights that `--train-dtype` excludes, or if the devices or
    the precision exclude updates in the backward pass.
    """
    fixed = fixed_settings(options, config)
    auto = options.vram == "auto"
    budget: int | None = None
    if len(fixed) < len(MEMORY_FLAGS) and not options.resume_dir:
        budget = _free_on_all(devices) if auto else int(USABLE * float(options.vram) * GIB)
    if budget is not None and not (auto and budget > plenty(workload, config)):
        if auto:
            given, default = vars(config), vars(DreamBoothConfig())
            fixed = {name: given[name] for name in MEMORY_FLAGS if given[name] != default[name]} | fixed
        candidates = _candidates(fixed, options.precision, workload, config, devices[0])
        log.info("predicting the memory of the training, up to 20 seconds for each profile that is tried")
        config = _first_that_fits(candidates, config, workload, budget, devices[0], refuse=not auto)
    if config.train_dtype != "fp32" and options.precision in FLOAT_WEIGHTS:
        raise UserError(
            f"--precision {options.precision} needs --train-dtype fp32, not {config.train_dtype}: "
            "leave out one of the two"
        )
    _refuse_accumulation(workload, config)
    if config.fused_backward and (why := _no_fused_backward(workload, config)):
        raise UserError(f"--fused-backward is not for {why}")
    return config


def fixed_settings(options: argparse.Namespace, config: DreamBoothConfig) -> dict[str, Any]:
    """The values that no profile changes: what the user has set and, if few weights are trained, what saves nothing."""
    fixed = {name: getattr(options, name) for name in MEMORY_FLAGS if getattr(options, name) is not None}
    if config.fixes_networks:  # the few weights that are trained take no memory
        own = ("optimizer", "train_dtype", "fused_backward")
        fixed |= {name: getattr(config, name) for name in own}
    return fixed


def _no_fused_backward(workload: Workload, config: DreamBoothConfig) -> str:
    """Why weights can't be updated within the backward pass; empty if they can."""
    if workload.devices > 1:
        return "several devices, which exchange their gradients after the backward pass"
    if workload.autocast_dtype == torch.float16 and config.train_dtype == "fp32":
        return "fp16-mixed, whose gradients are scaled until the backward pass has ended"
    return ""


def _refuse_accumulation(workload: Workload, config: DreamBoothConfig) -> None:
    """Raises `UserError` where gradients of several batches can't be added up."""
    if config.gradient_accumulation == 1:
        return
    if workload.devices > 1:
        raise UserError("--gradient-accumulation is for one device: several compute several batches at a time anyway")
    if workload.autocast_dtype == torch.float16 and config.train_dtype == "fp32":
        raise UserError("--gradient-accumulation is not for fp16-mixed; use --precision full or bf16-mixed")


def _candidates(
    fixed: dict[str, Any], precision: str, workload: Workload, config: DreamBoothConfig, device: torch.device
) -> list[MemoryProfile]:
    """The profiles with these fixed values that training and device allow; in bfloat16 only if the precision does."""
    keep_gradients = workload.devices > 1 or config.gradient_accumulation > 1
    candidates = profiles_with(fixed, keep_gradients=keep_gradients)
    if precision in FLOAT_WEIGHTS or half_dtype(device) != torch.bfloat16:
        return [one for one in candidates if one.train_dtype == "fp32"] or candidates
    return candidates


def _first_that_fits(
    candidates: list[MemoryProfile],
    config: DreamBoothConfig,
    workload: Workload,
    budget: int,
    device: torch.device,
    *,
    refuse: bool,
) -> DreamBoothConfig:
    """The config with the first candidate that fits; if none does, an error or, without `refuse`, the last one."""
    overhead = CUDA_OVERHEAD if device.type == "cuda" else 0
    if not refuse:  # free memory was queried from within a context
        overhead = max(0, overhead - CUDA_CONTEXT)
    chosen = Chooser(workload, config).first_that_fits(candidates, budget - overhead)
    if chosen is None:
        too_small = _too_small(candidates[-1], workload, config, budget, overhead)
        if refuse:
            raise UserError(too_small)
        log.warning("%s. Trying anyway", too_small)
        return candidates[-1].applied_to(config)
    profile, prediction = chosen
    peak = human_size(prediction.peak + overhead)
    lines = [f"  predicted peak: {peak} of {human_size(budget)}", *(f"  cost: {cost}" for cost in profile.costs)]
    log.info("memory profile: %s\n%s", profile, Lines(lines))
    return profile.applied_to(config)


def _free_on_all(devices: list[torch.device]) -> int | None:
    """Free bytes of the device that has the fewest; None if unknown."""
    return min((free for free in _free_on_each(devices) if free is not None), default=None)


def _free_on_each(devices: list[torch.device]) -> list[int | None]:
    """Free memory of each device in bytes; None if unknown.

    Querying a device makes a CUDA context there. This process trains on the first device only, so a short-lived process
    queries several.
    """
    if len(devices) == 1:
        return [free_memory(devices[0])]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return list(pool.map(free_memory, devices))


def _too_small(last: MemoryProfile, workload: Workload, config: DreamBoothConfig, budget: int, overhead: int) -> str:
    """The error if even the last candidate doesn't fit; it names a size or a flag that needs less."""
    config = last.applied_to(config)
    needed = predict(workload, config).peak + overhead
    needs = (
        f"training at {workload.height} x {workload.width} needs {human_size(needed)} even with {last}, "
        f"and there are {human_size(budget)}. "
    )
    multiple = workload.model.size_multiple
    for factor in SMALLER:
        height, width = (int(side * factor) // multiple * multiple for side in (workload.height, workload.width))
        if min(height, width) < multiple:
            break
        if predict(replace(workload, height=height, width=width), config, budget - overhead).peak + overhead <= budget:
            return f"{needs}--hw {height} {width} would fit"
    if config.train_text_encoder:
        return f"{needs}--no-train-text-encoder needs less"
    if config.batch_size > 1:
        return f"{needs}A smaller --batch-size needs less"
    return f"{needs}No size fits; another device or --devices cpu may have more"

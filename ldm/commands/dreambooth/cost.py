"""What a run will take: memory by counting tensors, disk by counting bytes, time by measuring updates."""

import datetime
from dataclasses import replace

from ldm.commands.disk_space import run_bytes
from ldm.commands.dreambooth.building import build_to_measure
from ldm.commands.dreambooth.directory import sizes_on_disk
from ldm.commands.dreambooth.plan import RunPlan
from ldm.commands.dreambooth.prior import predictions_of
from ldm.commands.dreambooth.vram import workload_of
from ldm.commands.enough_memory import memory_of
from ldm.disk import free_bytes, human_size
from ldm.runtime.devices import explain_out_of_memory
from ldm.training.base_pull import EVERY
from ldm.training.callbacks import time_on
from ldm.training.dreambooth import DreamBooth
from ldm.training.memory import CUDA_OVERHEAD, predict
from ldm.training.trainer import seconds_of_updates

MOST_UPDATES, MOST_SECONDS = 3, 20
"""Updates that are measured at most; no other is begun after so many seconds. The first also warms up."""


def cost_lines(plan: RunPlan) -> list[str]:
    """Memory, disk and time of a run, a line each."""
    device, updates = plan.devices[0], plan.config.iterations
    workload = workload_of(plan.settings, plan.config, plan.sampling, plan.devices, plan.compute)
    memory = predict(workload, plan.config).peak + (CUDA_OVERHEAD if device.type == "cuda" else 0)
    total = memory_of(device, len(plan.devices) if device.type == "cpu" else 1)
    of = "" if total is None else f" of {human_size(total)}"
    disk, free = human_size(run_bytes(plan.config, **sizes_on_disk(plan))), human_size(free_bytes(plan.output_dir))
    seconds, before = measured_seconds(plan)
    if plan.config.prior == "base-prediction":
        more = f"{plan.config.base_predictions} predictions of the base model before it take about {_time(before)}"
    else:
        more = f"{'class images and ' if plan.config.has_class_half else ''}previews take more"
    graphed = device.type == "cuda" and not plan.config.fused_backward and plan.config.gradient_accumulation == 1
    faster = "; as a CUDA graph it is faster" if graphed else ""
    return [
        f"  memory: {human_size(memory)}{of} on {device}",
        f"  disk: up to {disk} of {free} in {plan.output_dir}",
        f"  time: about {_time(updates * seconds)} for {updates} updates of {seconds:.3g} s, measured on {device}"
        f"{faster}; {more}",
    ]


def measured_seconds(plan: RunPlan) -> tuple[float, float]:
    """The time of one update on the first device, the fastest of a few, and what the prior takes before all of them.

    Both are measured; nothing is kept.
    """
    with explain_out_of_memory("a smaller --vram, --hw or --batch-size needs less"):
        module = build_to_measure(plan)
        device, dtype = plan.devices[0], plan.training_autocast_dtype
        pull, before = _seconds_of_pull(module), _seconds_of_predictions(module, plan)
        return min(seconds_of_updates(module, device, dtype, MOST_UPDATES, MOST_SECONDS)) + pull, before


def _seconds_of_pull(module: DreamBooth) -> float:
    """An update's share of the time of pulling the weights to the base model's."""
    if module.base_pull is None:
        return 0.0
    optimizer, began = module.build_optimizer(), time_on(module.ldm.device)
    module.base_pull.pull(optimizer, EVERY)
    return (time_on(module.ldm.device) - began) / EVERY


def _seconds_of_predictions(module: DreamBooth, plan: RunPlan) -> float:
    """The time of all predictions of the base model, from that of one batch."""
    if module.base_predictions is None:
        return 0.0
    count, began = module.base_predictions.inputs.count, time_on(module.ldm.device)
    predictions_of(module, replace(plan.compute, autocast_dtype=plan.training_autocast_dtype).autocast, count)
    return (time_on(module.ldm.device) - began) * plan.config.base_predictions / count


def _time(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=max(1, round(seconds)))

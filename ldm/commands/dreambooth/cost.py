"""What a run will take: memory by counting tensors, disk by counting bytes, time by measuring updates."""

import datetime

from ldm.commands.disk_space import run_bytes
from ldm.commands.dreambooth.building import build_to_measure
from ldm.commands.dreambooth.directory import sizes_on_disk
from ldm.commands.dreambooth.plan import RunPlan
from ldm.commands.dreambooth.vram import workload_of
from ldm.commands.enough_memory import memory_of
from ldm.disk import free_bytes, human_size
from ldm.runtime.devices import explain_out_of_memory
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
    seconds = seconds_per_update(plan)
    whole = datetime.timedelta(seconds=max(1, round(updates * seconds)))
    graphed = device.type == "cuda" and not plan.config.fused_backward and plan.config.gradient_accumulation == 1
    faster = "; as a CUDA graph it is faster" if graphed else ""
    return [
        f"  memory: {human_size(memory)}{of} on {device}",
        f"  disk: up to {disk} of {free} in {plan.output_dir}",
        f"  time: about {whole} for {updates} updates of {seconds:.3g} s, measured on {device}{faster}; class images "
        "and previews take more",
    ]


def seconds_per_update(plan: RunPlan) -> float:
    """The time of one update on the first device, measured: the fastest of a few. Nothing of it is kept."""
    with explain_out_of_memory("a smaller --vram, --hw or --batch-size needs less"):
        module = build_to_measure(plan)
        device, dtype = plan.devices[0], plan.training_autocast_dtype
        return min(seconds_of_updates(module, device, dtype, MOST_UPDATES, MOST_SECONDS))

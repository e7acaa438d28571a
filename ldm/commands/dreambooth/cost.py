"""What a run will take: memory by counting tensors, disk by counting bytes, time by measuring updates."""

import datetime
import time
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.disk_space import run_bytes
from ldm.commands.dreambooth.directory import sizes_on_disk
from ldm.commands.dreambooth.images import encode_images
from ldm.commands.dreambooth.plan import RunPlan
from ldm.commands.dreambooth.vram import workload_of
from ldm.commands.enough_memory import memory_of
from ldm.data.batches import DeviceShare, NoisyLatents
from ldm.disk import free_bytes, human_size
from ldm.runtime.devices import explain_out_of_memory
from ldm.runtime.models import ModelSlot
from ldm.training.dreambooth import DreamBooth
from ldm.training.memory import CUDA_OVERHEAD, predict

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
    faster = "; as a CUDA graph it is faster" if device.type == "cuda" else ""
    return [
        f"  memory: {human_size(memory)}{of} on {device}",
        f"  disk: up to {disk} of {free} in {plan.output_dir}",
        f"  time: about {whole} for {updates} updates of {seconds:.3g} s, measured on {device}{faster}; class images "
        "and previews take more",
    ]


def seconds_per_update(plan: RunPlan) -> float:
    """The time of one update on the first device, measured: the fastest of a few. Nothing of it is kept."""
    device, config = plan.devices[0], plan.config
    compute = replace(plan.compute, device=device)
    with explain_out_of_memory("a smaller --vram, --hw or --batch-size needs less"):
        ldm = ModelSlot(compute).use(read_checkpoint(plan.base), plan.settings, plan.tokenizer)
        size = plan.sampling.height, plan.sampling.width
        moments = encode_images(ldm.autoencoder, plan.instance_images[:1], size, config.flip, compute)
        class_moments = moments if config.class_img_count else None
        module = DreamBooth(ldm, plan.subject, moments, class_moments, config, plan.options.seed)
        module.on_train_start()
        optimizer = module.build_optimizer()
        batches = module.batches(DeviceShare(plan.options.seed, config.batch_size))
        seconds: list[float] = []
        while len(seconds) < MOST_UPDATES and sum(seconds) < MOST_SECONDS:
            on_host = cast(dict[str, Tensor], batches.step(len(seconds)))
            batch = cast(NoisyLatents, {name: tensor.to(device) for name, tensor in on_host.items()})
            began = _now(device)
            with torch.autocast(
                device.type, plan.training_autocast_dtype, enabled=plan.training_autocast_dtype is not None
            ):
                loss = module.losses(batch)["total"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.trained_parameters(), config.max_grad_norm or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(_now(device) - began)
        return min(seconds)


def _now(device: torch.device) -> float:
    """The time in seconds when the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()

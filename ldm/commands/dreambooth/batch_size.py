"""`--batch-size auto`: the largest batch whose predicted memory fits."""

import argparse
import logging
from dataclasses import replace

import torch

from ldm.choices import AUTO
from ldm.commands.dreambooth.vram import tensor_budget
from ldm.disk import human_size
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import Workload, predict

log = logging.getLogger(__name__)

MOST = 16
"""A batch is at most so large: a subject has a few photos, and a larger batch would only repeat them."""


def with_largest_batch(
    options: argparse.Namespace, config: DreamBoothConfig, workload: Workload, devices: list[torch.device]
) -> DreamBoothConfig:
    """With `--batch-size auto` the config with the largest batch that fits into `--vram`, or the device's free memory.

    Where neither is known, as on a CPU, whose limit is time, the model's own stays.
    """
    if options.batch_size != AUTO:
        return config
    budget = tensor_budget(options.vram, devices)
    if budget is None:
        log.info(
            "batch size: %d, the model's own: on %s time is the limit, not memory; --vram sets a limit to fill",
            config.batch_size,
            devices[0],
        )
        return config
    log.info("predicting the memory of larger batches, up to 20 seconds for each that is tried")
    size, peak = largest_batch(workload, config, budget)
    log.info("batch size: %d, predicted to take %s of %s", size, human_size(peak), human_size(budget))
    return replace(config, batch_size=size)


def largest_batch(workload: Workload, config: DreamBoothConfig, budget: int) -> tuple[int, int]:
    """The largest batch, up to `MOST`, whose predicted peak is at most `budget` bytes, and that peak; at least 1.

    A step's memory grows with the batch along a line, so that few predictions are needed.
    """

    def peak(size: int) -> int:
        return predict(workload, replace(config, batch_size=size)).peak

    one, two = peak(1), peak(2)
    size, needed = 1, one
    most = min(MOST, 1 + (budget - one) // max(1, two - one))
    for tried in range(most, 1, -1):
        if (found := two if tried == 2 else peak(tried)) <= budget:
            size, needed = tried, found
            break
    return size, needed

"""Whether a CPU should compute in bfloat16: measured, as a processor without such instructions emulates them slowly."""

import logging
import time
from functools import cache

import torch

log = logging.getLogger(__name__)

ROWS, WIDTH = 1024, 320
"""A product of the UNet's: many pixels, and the channels of its first level."""
WORTH = 1.3
"""How many times as fast products should be in bfloat16: only a part of a step are products."""
TOO_SLOW = 3.0
"""If the first product takes so many times as long, no other is measured."""


@cache
def bfloat16_speedup() -> float:
    """How many times as fast this process multiplies matrices in bfloat16 as in float32; takes some 0.1 seconds."""
    fastest: dict[torch.dtype, float] = {}
    for _ in range(4):  # the first one also warms up
        for dtype in (torch.float32, torch.bfloat16):
            fastest[dtype] = min(fastest.get(dtype, float("inf")), _seconds(dtype))
        if fastest[torch.bfloat16] > TOO_SLOW * fastest[torch.float32]:
            break
    return fastest[torch.float32] / fastest[torch.bfloat16]


def _seconds(dtype: torch.dtype) -> float:
    rows, weight = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    began = time.perf_counter()
    with torch.inference_mode():
        torch.nn.functional.linear(rows, weight)
    return time.perf_counter() - began


def cpu_precision() -> str:
    """The `--precision` of a training on this CPU that `auto` stands for: bf16-mixed or full; logs which and why."""
    speedup = bfloat16_speedup()
    chosen, other = ("bf16-mixed", "full") if speedup >= WORTH else ("full", "bf16-mixed")
    log.info(
        "precision: %s: this processor multiplies matrices in bfloat16 %.2g times as fast as in float32 (--precision "
        "%s: the other one)",
        chosen,
        speedup,
        other,
    )
    return chosen

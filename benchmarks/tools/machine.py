"""The machine, in words."""

import os
import platform
from pathlib import Path

import torch

from ldm.commands.record import versions


def machine() -> str:
    """The processor, its usable cores and threads, and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = versions()
    shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "python", "commit") if name in found)
    return f"{_processor()}, {platform.system()}, {cores} cores, {torch.get_num_threads()} torch threads, {shown}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

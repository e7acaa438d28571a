"""The peak memory of a piece of work, above what the process held before it built anything for it."""

import ctypes
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.tools.measuring import synchronize
from ldm.files import ROOT

GIB = 1024**3
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Peak:
    """In GiB. `allocated` is what tensors took, on the CPU all of the process's own memory; `reserved` what the
    allocator took from the device for them, which is what contenders are compared by.

    Between its replays a CUDA graph keeps the memory of its temporaries, in which no tensor lives then: only
    `reserved` shows it.
    """

    allocated: float
    reserved: float

    def __str__(self) -> str:
        """Such as `10.00 (tensors 9.00)`."""
        both = self.allocated != self.reserved
        return f"{self.reserved:.2f} (tensors {self.allocated:.2f})" if both else f"{self.reserved:.2f}"

    def share_of(self, other: "Peak") -> float:
        """As a part of the other peak."""
        return self.reserved / other.reserved


def held(device: torch.device, key: str = "VmRSS") -> float:
    """GiB that this process holds now; `VmHWM`: at most so far."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB
    found = re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text())
    return int(found[1]) / 1024**2 if found else float("nan")


def peak_of(work: Callable[[], object], device: torch.device, before: float) -> Peak:
    """Runs it; returns its peak above `before`, a value of `held`."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        work()
        synchronize(device)
        most = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        return Peak(most[0] / GIB - before, most[1] / GIB - before)
    give_back_freed()
    CLEAR.write_text("5")  # the peak so far is what is held now
    work()
    peak = held(device, "VmHWM") - before
    return Peak(peak, peak)


def give_back_freed() -> None:
    """Returns memory to the system that was freed while the work was built and that glibc keeps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_in_own_process(script: str | Path, name: str, arguments: Sequence[str]) -> Peak | str:
    """Runs a benchmark again for the peak of one contender alone, which `--peak-of NAME` prints; or why there is none.

    In its own process, because allocators keep freed memory of earlier work.
    """
    command = [sys.executable, str(script), *arguments, "--peak-of", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode:
        return OUT_OF_MEMORY if "OutOfMemoryError" in done.stderr else f"failed: {done.stderr.strip()[-300:]}"
    return Peak(**json.loads(last))


def print_peak(peak: Peak) -> None:
    """For `peak_in_own_process` to read."""
    sys.stdout.write(json.dumps(asdict(peak)) + "\n")

"""Waits for what a process in the background writes."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def wait_until(what: str, ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    """Returns as soon as it is ready. Fails with what the process said if that ends or takes too long."""
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"{what} did not come: {process.communicate()[0]}")
        time.sleep(0.002)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Returns as soon as the file is there."""
    wait_until(path.name, path.exists, process)

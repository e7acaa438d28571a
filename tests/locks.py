"""Other processes that have a directory's lock, or try to get it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.files import ROOT

TRY = """
import sys
from pathlib import Path
from ldm.locking import lock_directory
lock_directory(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""
"""A program that locks a directory and holds it until its input ends."""

FROM_HERE = {**os.environ, "PYTHONPATH": str(ROOT)}
"""It uses this checkout, whatever is installed."""


@contextmanager
def another_process_has(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Meanwhile the directory is locked."""
    with subprocess.Popen(
        [sys.executable, "-c", TRY, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=FROM_HERE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


def others_may_lock(directory: Path) -> bool:
    """Whether another process can lock the directory now."""
    process = subprocess.run([sys.executable, "-c", TRY, directory], capture_output=True, input=b"", env=FROM_HERE)
    return process.returncode == 0

"""Commands in processes of their own, to be waited for, stopped and killed.

They are forks of a server that imports torch once for all of them, which takes longer than what most of them do.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path

from ldm.files import ROOT
from ldm.interruption import SIGNALS

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["pytorch_lightning", "torch.utils.tensorboard", "transformers"])


class Process:
    """`python <command>.py <arguments>` in a process group of its own, as from a terminal; used like `Popen`."""

    def __init__(
        self, command: str, *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        handle, output = tempfile.mkstemp()
        os.close(handle)
        self._output = Path(output)
        words = [str(ROOT / f"{command}.py"), *map(str, arguments)]
        self._process = FORKS.Process(target=_run, args=(words, cwd, output, dict(environment or {})))
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]

    @property
    def returncode(self) -> int | None:
        """The exit status, or the signal's number below zero; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Its output until its end."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._output.read_text(), None


def _run(words: list[str], cwd: Path, output: str, environment: dict[str, str]) -> None:
    """Becomes the command; its output goes to a file. Restores the signals' handlers, as from a terminal."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.update(environment)
    os.setsid()
    os.chdir(cwd)
    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def wait_until(what: str, ready: Callable[[], bool], process: Process, seconds: float = 120.0) -> None:
    """Returns as soon as it is ready. Fails with the process's output if that ends or takes too long."""
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"{what} did not come: {process.communicate()[0]}")
        time.sleep(0.002)


def wait_for(path: Path, process: Process) -> None:
    """Returns as soon as the file is there."""
    wait_until(path.name, path.exists, process)

"""Runs commands in forks of a process that has imported everything once: starts, watches, stops and awaits them."""

import contextlib
import errno
import importlib
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.reliability_campaign.moments import Fault, Watch
from ldm.files import ROOT

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.reliability_campaign.preload"])
STARTING = threading.Lock()
"""Held while processes are started and polled: one thread at a time."""

TIMEOUT = 300.0
LOOK_AGAIN = 0.004


@dataclass(frozen=True)
class Work:
    """The work of a process: a command with its flags, or a function."""

    command: str
    words: tuple[str, ...] = ()
    patches: Mapping[str, Any] = field(default_factory=dict)
    """Values by "module:name", for a command that writes into the repository."""
    function: Callable[..., None] | None = None
    """Called with the words instead of the command."""
    reads: Path | None = None
    """A directory that it reads; these events are reported, too."""

    def __str__(self) -> str:
        return " ".join((f"{self.command}.py", *self.words))


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    status: int
    """The exit status, or the signal's number below zero."""
    said: str
    events: tuple[str, ...]
    timed_out: bool = False

    @property
    def befallen(self) -> bool:
        """Whether its fault happened."""
        return any(event.startswith("!") for event in self.events)

    @property
    def last_event(self) -> str:
        """The event before which it happened."""
        done = [event for event in self.events if not event.startswith(("!", "read"))]
        return done[-1] if done else ""


class Running:
    """A process in its own group. Its output and events come through pipes, not through files."""

    def __init__(self, work: Work, root: Path, fault: Fault | None = None, timeout: float = TIMEOUT) -> None:
        prepare_server()
        self._end = time.monotonic() + timeout
        self._place = tempfile.TemporaryDirectory(prefix="ldm-campaign-")
        self._pipes = {}
        names = [str(Path(self._place.name) / name) for name in ("said", "events")]
        for name in names:
            os.mkfifo(name)
            self._pipes[name] = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        self._heard = {name: bytearray() for name in names}
        self._process = FORKS.Process(target=_run, args=(work, root, fault, *names))
        with STARTING:
            self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        self._listen()
        with STARTING:
            return self._process.exitcode

    def send(self, number: int) -> None:
        """A signal for this process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait_until(self, ready: Callable[[], bool]) -> bool:
        """Waits until it is ready; False if the process or its time ends before."""
        while not ready():
            if self.poll() is not None or time.monotonic() > self._end:
                return False
            time.sleep(LOOK_AGAIN)
        return True

    def end(self) -> Ended:
        """Waits for its end, or kills it when its time is over, together with the processes that it started."""
        timed_out = False
        while (status := self.poll()) is None:
            if time.monotonic() > self._end and not timed_out:
                timed_out = True
                self.send(signal.SIGKILL)
            time.sleep(LOOK_AGAIN)
        self._listen()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for descriptor in self._pipes.values():
            os.close(descriptor)
        self._place.cleanup()
        said, events = (content.decode(errors="replace") for content in self._heard.values())
        return Ended(status, said, tuple(events.splitlines()), timed_out)

    def others(self) -> list[int]:
        """Other living processes of its group."""
        return [pid for pid, group in groups() if group == self.pid and pid != self.pid]

    def _listen(self) -> None:
        for name, descriptor in self._pipes.items():
            try:
                while some := os.read(descriptor, 1 << 16):
                    self._heard[name] += some
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EBADF):
                    raise


def run(work: Work, root: Path, fault: Fault | None = None, timeout: float = TIMEOUT) -> Ended:
    """A process from its start to its end."""
    return Running(work, root, fault, timeout).end()


def groups() -> list[tuple[int, int]]:
    """(process, its group) of all that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if state != "Z":
                found.append((int(stat.parent.name), int(group)))
    return found


def prepare_server() -> None:
    """What processes inherit: our modules are found, a network this small uses one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"  # about killed processes
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, paths)])


def _run(work: Work, root: Path, fault: Fault | None, said: str, events: str) -> None:
    """Becomes the command, in `root`."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    os.chdir(root)
    tempfile.tempdir = None
    handle = os.open(said, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    events_pipe = os.open(events, os.O_WRONLY)
    for name, value in work.patches.items():
        module, _, attribute = name.partition(":")
        owner = importlib.import_module(module)
        getattr(owner, attribute)  # a patch of nothing is a mistake
        setattr(owner, attribute, value)
    Watch([root, *filter(None, [work.reads])], fault, lambda event: _report(events_pipe, event)).install()
    if work.function is not None:
        work.function(*work.words)
        return
    sys.argv = [str(ROOT / f"{work.command}.py"), *work.words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _report(descriptor: int, event: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, f"{event}\n".encode(errors="replace"))


def words(*given: object) -> tuple[str, ...]:
    """Words of a command line."""
    return tuple(map(str, given))

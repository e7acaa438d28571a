"""Faults of a process and their moments, counted in its file operations, so that a moment is reproducible."""

import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[str], None]

READ, START = "read", "start"
"""Events that write nothing. All others do."""
MOST = resource.RLIM_INFINITY


@dataclass(frozen=True)
class Fault:
    """A fault that happens before the `nth` matching event."""

    action: str
    """kill: SIGKILL. signal: `number`. torn: dies in the middle of the next file that grows beyond `size` bytes.
    limit: no file may grow beyond `size` bytes. fill: the disk of `ballast` is filled, but for `size` bytes."""
    where: str = ""
    """A regular expression for the event, such as "rename .*resume"; empty: any write."""
    nth: int = 0
    delay: float = 0.0
    """Seconds after that event."""
    size: int = 0
    number: int = 0
    ballast: str = ""

    def matches(self, event: str) -> bool:
        """Whether the event is one that counts."""
        return bool(re.search(self.where, event)) if self.where else not event.startswith((READ, START))


class Watch:
    """Reports the process's file operations below `roots`, and causes the fault. Worker processes are not watched.

    An event is an operation that is about to happen and the path below its root, such as `rename
    can-1/step-00003.safetensors`. Libraries that open files themselves are noticed when their file is flushed and
    renamed.
    """

    def __init__(self, roots: Sequence[Path], fault: Fault | None, report: Report) -> None:
        self._roots = {f"{place}{os.sep}" for root in roots for place in (root, root.resolve())}
        self._fault = fault
        self._report = report
        self._process = os.getpid()
        self._seen = 0
        self._lock = threading.Lock()
        self._inside = threading.local()

    def install(self) -> None:
        """From now on, until the process ends."""
        if self._fault and self._fault.action == "torn":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def flush(descriptor: int) -> None:
            """Reports it without waiting for the disk, because the power is never cut."""
            self.look("flush", Path(f"/proc/self/fd/{descriptor}").readlink())

        os.fsync = flush
        sys.addaudithook(self._audit)
        self.look(START, "")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or (mode and set(mode) & set("wxa+"))
            self.look("write" if writes else READ, path)
        elif event == "os.rename":
            self.look("rename", arguments[1])
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            self.look(event.removeprefix("os."), arguments[0])

    def look(self, what: str, path: object) -> None:
        """An event that may be one of ours."""
        if getattr(self._inside, "busy", False) or os.getpid() != self._process:
            return
        self._inside.busy = True
        try:
            place = self._below(path)
            if place is not None or what == START:
                self._happened(f"{what} {place or ''}".strip())
        finally:
            self._inside.busy = False

    def _below(self, path: object) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        # Not resolved: a link is renamed and removed itself.
        absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return next((absolute[len(root) :] for root in self._roots if absolute.startswith(root)), None)

    def _happened(self, event: str) -> None:
        self._report(event)
        with self._lock:
            fault = self._fault
            if fault is None or not fault.matches(event):
                return
            self._seen += 1
            if self._seen <= fault.nth:
                return
            self._fault = None
        if fault.delay:
            timer = threading.Timer(fault.delay, self._befall, (fault,))
            timer.daemon = True
            timer.start()
        else:
            self._befall(fault)

    def _befall(self, fault: Fault) -> None:
        self._inside.busy = True
        self._report(f"! {fault.action}")
        if fault.action in ("kill", "signal"):
            os.kill(os.getpid(), fault.number or signal.SIGKILL)
        elif fault.action in ("torn", "limit"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size, MOST))
        elif fault.action == "fill":
            fill_disk(fault.ballast, fault.size)
        self._inside.busy = False


def fill_disk(ballast: str, free: int) -> None:
    """Fills a small disk except for some bytes."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 1 << 12):
            try:
                while os.write(descriptor, bytes(size)) == size:
                    continue
            except OSError:
                continue
        if free:
            os.ftruncate(descriptor, max(0, os.lseek(descriptor, 0, os.SEEK_END) - free))
    finally:
        os.close(descriptor)

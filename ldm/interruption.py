"""Signals that ask a command to end: Ctrl-C, a batch system's, a closed terminal's. All are answered alike.

The first one raises `Stopped`, at once or, in a `finish_first` block, when the block ends. A second one, a second later
or more, ends the process. Whoever stops so exits with `STATUS`.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ldm.terminal import Lines

log = logging.getLogger(__name__)

STATUS = 75
"""EX_TEMPFAIL of sysexits.h, "try again later": neither that of success nor of an error."""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""Windows knows only the first two."""

ONE_REQUEST = 1.0
"""Seconds within which several signals are one request: a terminal that closes sends SIGHUP twice, a batch system to
the process and to its group."""


class Stopped(BaseException):
    """A signal has asked the command to end. No `Exception`, so that nobody takes it for an error."""

    def __init__(self, number: int, after: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.after = after
        """What was done last, such as "update 12"; empty where the signal came in the middle."""

    def __str__(self) -> str:
        return f"stopped by {signal_name(self.number)}" + (f" after {self.after}" if self.after else "")


def signal_name(number: int) -> str:
    """SIGTERM of 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Request:
    """What a `finish_first` block knows of a signal that came meanwhile."""

    def __init__(self, meanwhile: str) -> None:
        self.meanwhile = meanwhile
        """Said to the user when it comes; empty: nothing is."""
        self.number: int | None = None
        self.after = ""
        """To be set by the block: what was done last."""

    @property
    def is_made(self) -> bool:
        """Whether a signal came."""
        return self.number is not None


class _Heeded:
    """The handlers of a command, and a thread that reads which signals came.

    Python calls a handler only between two of its own steps. The thread is told of a signal also while the main thread
    computes or waits for a device, so that a second signal always ends the process.
    """

    def __init__(self, ends_process: bool) -> None:
        self.process = os.getpid()
        self.ends_process = ends_process
        self.blocks: list[Request] = []
        self.raised = False
        self._handled: float | None = None
        self._came: float | None = None
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before: dict[int, object] = {}

    def install(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:  # as `nohup` or a shell's background has asked for
                self._before[number] = handler
                signal.signal(number, self._handle)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()

    def remove(self) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._writer.send(b"\0")
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process or self.raised:
            return  # a forked process has its own ways; what comes later is the thread's
        now = time.monotonic()
        again = self._handled is not None and now - self._handled > ONE_REQUEST
        if not self.blocks or (again and not self.ends_process):
            self.raised = True
            raise Stopped(number)
        self._handled = self._handled or now
        for block in self.blocks:
            block.number = block.number or number

    def _watch(self) -> None:
        while (number := int.from_bytes(self._reader.recv(1))) != 0:
            if number not in self._before:
                continue
            now = time.monotonic()
            if self._came is None:
                self._came = now
                if self.blocks and self.blocks[-1].meanwhile:
                    log.warning("%s: %s", signal_name(number), self.blocks[-1].meanwhile)
            elif self.ends_process and now - self._came > ONE_REQUEST:
                end_at_once(STATUS, f"{signal_name(number)} came again: stopped at once; {how_to_continue()}")


_heeded: _Heeded | None = None
_again = ""
_before_the_end: list[Callable[[], None]] = []


def heed(*, ends_process: bool = True) -> bool:
    """From `listen` on signals are answered; until then they wait, so that whoever calls it can be ready for `Stopped`.

    A second signal ends the process, or without `ends_process` raises `Stopped` also within `finish_first`.

    False where they are answered already, or where this isn't the main thread.
    """
    global _heeded
    known = _heeded is not None and _heeded.process == os.getpid()
    if known or threading.current_thread() is not threading.main_thread():
        return False
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _heeded = _Heeded(ends_process)
    _heeded.install()
    return True


def listen() -> None:
    """Lets signals come, also those that waited since the process was started."""
    if hasattr(signal, "pthread_sigmask") and threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def heeded(*, ends_process: bool = True) -> Iterator[None]:
    """Signals are answered in this block, as `heed` says; then the handlers from before are put back."""
    mine = heed(ends_process=ends_process)
    try:
        listen()
        yield
    finally:
        if mine:
            stop_heeding()


def stop_heeding() -> None:
    """Puts the handlers back that were there before `heed`."""
    global _heeded
    if _heeded is not None:
        _heeded.remove()
        _heeded = None


def ignore_from_now_on() -> None:
    """After a command's end, while Python ends: there is nothing left to stop."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def finish_first(meanwhile: str = "") -> Iterator[Request]:
    """What must not be left half done: a signal waits for the block's end, which then raises `Stopped`."""
    request = Request(meanwhile)
    blocks = _heeded.blocks if _heeded is not None else []
    blocks.append(request)
    try:
        yield request
    finally:
        blocks.remove(request)
    if request.number is not None and not blocks:
        if _heeded is not None:
            _heeded.raised = True
        raise Stopped(request.number, request.after)


def continue_with(command: str) -> None:
    """Tells how the user may continue what this process does; empty: not at all, as nothing is begun."""
    global _again
    _again = command


def command_to_continue() -> str:
    """What `continue_with` was told last."""
    return _again


def how_to_continue() -> Lines:
    """The end of a sentence about a command that was stopped."""
    return Lines(["continue with", f"  {_again}"] if _again else ["nothing was begun"])


@contextmanager
def before_the_end(callback: Callable[[], None]) -> Iterator[None]:
    """In this block `end_at_once` calls this first: it ends other processes, say."""
    _before_the_end.append(callback)
    try:
        yield
    finally:
        _before_the_end.remove(callback)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started in this block get no signal until they heed them: no one dies without a word."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_once(status: int, message: str) -> None:
    """Ends the process from any thread, whatever the others do. Files are written whole, so none is left damaged."""
    for callback in list(_before_the_end):
        callback()
    if message:
        say = threading.Thread(target=log.error, args=("%s", Lines(message.split("\n"))), daemon=True)
        say.start()
        say.join(timeout=2.0)  # the main thread may hold the terminal
    os._exit(status)


def _forget_in_child() -> None:
    if _heeded is not None:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

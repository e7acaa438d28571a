"""Signals that ask a command to end: Ctrl-C, a batch system's, a closed terminal's. All are handled alike.

The first one raises `Stopped`, at once or, in a `finish_first` block, when the block ends. A second one, a second or
more later, ends the process. In both cases the exit status is `STATUS`.
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
"""EX_TEMPFAIL of sysexits.h, "try again later": neither success nor an error."""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""Windows has only the first two."""

ONE_REQUEST = 1.0
"""Signals within so many seconds count as one request: a closing terminal sends SIGHUP twice, a batch system signals
the process and its group."""


class Stopped(BaseException):
    """A signal has asked the command to end. Not an `Exception`, so that it isn't handled as an error."""

    def __init__(self, number: int, after: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.after = after
        """What was done last, such as "update 12"; empty if the signal came in the middle."""

    def __str__(self) -> str:
        return f"stopped by {signal_name(self.number)}" + (f" after {self.after}" if self.after else "")


def signal_name(number: int) -> str:
    """The name of a signal: SIGTERM for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Request:
    """Whether a signal came during a `finish_first` block."""

    def __init__(self, meanwhile: str) -> None:
        self.meanwhile = meanwhile
        """Logged when the signal comes, if not empty."""
        self.number: int | None = None
        self.after = ""
        """Set by the block: what was done last."""

    @property
    def is_made(self) -> bool:
        """Whether a signal came."""
        return self.number is not None


class _Handlers:
    """The handlers of a command, and a thread that reads which signals came.

    Python calls a handler only between two of its own instructions. The thread receives a signal also while the main
    thread computes or waits for a device, so that a second signal always ends the process.
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
        self._replaced: dict[int, object] = {}

    def install(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:  # by `nohup` or a shell's background
                self._replaced[number] = handler
                signal.signal(number, self._handle)
        self._replaced_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()

    def remove(self) -> None:
        signal.set_wakeup_fd(self._replaced_fd)
        for number, handler in self._replaced.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._writer.send(b"\0")
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process or self.raised:
            return  # a forked process handles signals itself; later ones are the thread's
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
            if number not in self._replaced:
                continue
            now = time.monotonic()
            if self._came is None:
                self._came = now
                if self.blocks and self.blocks[-1].meanwhile:
                    log.warning("%s: %s", signal_name(number), self.blocks[-1].meanwhile)
            elif self.ends_process and now - self._came > ONE_REQUEST:
                end_at_once(STATUS, f"{signal_name(number)} came again: stopped at once; {resume_hint()}")


_handlers: _Handlers | None = None
_resume_command = ""
_exit_callbacks: list[Callable[[], None]] = []


def install_handlers(*, ends_process: bool = True) -> bool:
    """Installs the handlers; signals stay blocked until `unblock_signals`, when the caller is ready for `Stopped`.

    A second signal ends the process, or without `ends_process` raises `Stopped` also within `finish_first`.
    False if handlers are installed already, or if this isn't the main thread.
    """
    global _handlers
    known = _handlers is not None and _handlers.process == os.getpid()
    if known or threading.current_thread() is not threading.main_thread():
        return False
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _handlers = _Handlers(ends_process)
    _handlers.install()
    return True


def unblock_signals() -> None:
    """Delivers signals from now on, also those that came while they were blocked."""
    if hasattr(signal, "pthread_sigmask") and threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def handled_signals(*, ends_process: bool = True) -> Iterator[None]:
    """Signals are handled in this block; afterwards the earlier handlers are restored."""
    mine = install_handlers(ends_process=ends_process)
    try:
        unblock_signals()
        yield
    finally:
        if mine:
            restore_handlers()


def restore_handlers() -> None:
    """Restores the handlers from before `install_handlers`."""
    global _handlers
    if _handlers is not None:
        _handlers.remove()
        _handlers = None


def ignore_signals() -> None:
    """Ignores signals after a command's end, while Python exits: there is nothing left to stop."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def finish_first(meanwhile: str = "") -> Iterator[Request]:
    """Lets the block end first: after a signal the block goes on, and its end raises `Stopped`."""
    request = Request(meanwhile)
    blocks = _handlers.blocks if _handlers is not None else []
    blocks.append(request)
    try:
        yield request
    finally:
        blocks.remove(request)
    if request.number is not None and not blocks:
        if _handlers is not None:
            _handlers.raised = True
        raise Stopped(request.number, request.after)


def set_resume_command(command: str) -> None:
    """Sets the command with which the user can resume this work; empty: nothing was begun yet."""
    global _resume_command
    _resume_command = command


def resume_command() -> str:
    """The command that was set last."""
    return _resume_command


def resume_hint() -> Lines:
    """The end of a message about a stopped command: how to resume it."""
    return Lines(["continue with", f"  {_resume_command}"] if _resume_command else ["nothing was begun"])


@contextmanager
def before_the_end(callback: Callable[[], None]) -> Iterator[None]:
    """In this block `end_at_once` calls `callback` first, for example to end other processes."""
    _exit_callbacks.append(callback)
    try:
        yield
    finally:
        _exit_callbacks.remove(callback)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes started in this block get no signals before they install handlers: none dies without a message."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end_at_once(status: int, message: str) -> None:
    """Ends the process from any thread. Files are written whole, so none is left damaged."""
    for callback in list(_exit_callbacks):
        callback()
    if message:
        report = threading.Thread(target=log.error, args=("%s", Lines(message.split("\n"))), daemon=True)
        report.start()
        report.join(timeout=2.0)  # the main thread may hold the terminal
    os._exit(status)


def _forget_in_child() -> None:
    if _handlers is not None:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

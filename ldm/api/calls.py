"""The frame around a command that Python calls: messages, signals, and nothing that stays behind."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from ldm.api.flags import with_keywords
from ldm.errors import UserError
from ldm.interruption import Stopped, handled_signals, resume_hint, set_resume_command
from ldm.progress import without_bars
from ldm.terminal import TerminalFormatter

log = logging.getLogger("ldm")

_running = threading.Lock()


@contextmanager
def command_call(script: str, words: Sequence[str]) -> Iterator[None]:
    """Around the function of a command, called as `python <script> <words>` would call it.

    Ctrl-C, or a notebook's interrupt, lets what was begun be saved and then raises `KeyboardInterrupt`; a second one
    raises it at once. Handlers of signals and of logging, the log level and `sys.argv` are put back. Outside of the
    main thread no signal is handled. Raises `UserError` if another such call is running in this process.
    """
    if not _running.acquire(blocking=False):
        raise UserError("another fine_tune, compare or score is running in this process: wait until it has ended")
    argv, level = sys.argv, log.level
    try:
        sys.argv = [script, *words]  # the run's record holds the command that does the same
        set_resume_command("")
        with shown_messages(), handled_signals(ends_process=False):
            yield
    except Stopped as stop:
        raise _interrupt(stop) from None
    finally:
        sys.argv = argv
        log.setLevel(level)
        _running.release()


def _interrupt(stop: Stopped) -> KeyboardInterrupt:
    """What the caller gets. A signal other than Ctrl-C does first what it did before the call: SIGTERM ends Python."""
    if stop.number != signal.SIGINT:
        signal.raise_signal(stop.number)
    return KeyboardInterrupt(f"{stop}; {resume_hint()}")


@contextmanager
def shown_messages() -> Iterator[None]:
    """In this block warnings of the package are printed, unless the program has set up logging itself."""
    if log.hasHandlers():
        yield
        return
    handler = _WarningHandler(sys.stderr)
    handler.setFormatter(TerminalFormatter())
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _WarningHandler(logging.StreamHandler[TextIO]):
    """Prints warnings, on lines of their own beside progress bars. Errors are raised and need no line."""

    def format(self, record: logging.LogRecord) -> str:
        return with_keywords(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            with without_bars():
                super().emit(record)

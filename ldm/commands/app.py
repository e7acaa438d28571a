"""The frame around every command: what is said, to the terminal and to the run's log, and how the command ends."""

import logging
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import wraps
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import NoReturn, TextIO, TypeVar

from ldm.commands.log_file import LogFile
from ldm.errors import UserError
from ldm.interruption import (
    STATUS,
    Stopped,
    continue_with,
    heed,
    how_to_continue,
    ignore_from_now_on,
    listen,
    stop_heeding,
)
from ldm.locking import unlock_directories
from ldm.processes import DIED, ProcessDiedError, end_with_parent, is_helper_process, own_rank
from ldm.progress import Tolerant, open_closed_streams, without_bars
from ldm.terminal import Lines, TerminalFormatter

log = logging.getLogger("ldm")

Result = TypeVar("Result")

RUN_LOG = "run.log"


def launch(command: Callable[[], None]) -> NoReturn:
    """Runs a command as this process's only one, and exits with its status."""
    open_closed_streams()
    heed()
    warnings.showwarning = _log_warning  # type: ignore[assignment]
    if is_helper_process():
        end_with_parent(tells=own_rank() == 1)
    sys.stdout, sys.stderr = Tolerant(sys.stdout), Tolerant(sys.stderr)
    status = run(command)
    if status != STATUS:  # a second signal stops also what is still being written
        ignore_from_now_on()
    sys.exit(status)


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit status, one of those that `--help` names (`EXIT_STATUSES`)."""
    continue_with("")
    alone = heed()  # not where `launch` has done so
    with _terminal(), _log_files():
        try:
            return _run(command)
        finally:
            unlock_directories()
            if alone:
                stop_heeding()


def _run(command: Callable[[], None]) -> int:
    try:
        listen()
        return _told(command)
    except (Stopped, KeyboardInterrupt) as stop:  # perhaps while another end was being told
        words = "stopped" if isinstance(stop, KeyboardInterrupt) else stop
        log.log(logging.DEBUG if is_helper_process() else logging.ERROR, "%s; %s", words, how_to_continue())
        return STATUS


def _told(command: Callable[[], None]) -> int:
    """The status of a command that isn't stopped; what went wrong is told."""
    try:
        command()
    except UserError as error:
        log.error("error: %s", error)
        return 2
    except PermissionError as error:  # of a directory that may not even be looked into
        log.error("error: %s: %s", error.filename, error.strerror)
        return 2
    except ProcessDiedError as error:
        log.error("error: %s; %s", error, how_to_continue())
        return DIED
    except Exception:
        # Python writes it to the terminal.
        lines = Lines(traceback.format_exc().rstrip().split("\n"))
        log.critical("unexpected error\n%s", lines, extra={"for_file_only": True})
        raise
    return 0


def begin_run(directory: Path, command: str) -> None:
    """From now on there is a run in the directory: its log begins with what was said so far, `command` continues it."""
    continue_with(command)
    if _files is not None:
        _files.begin(directory / RUN_LOG)


@contextmanager
def mistakes_to_continue_after() -> Iterator[None]:
    """Around what a run that is begun does: after a full disk, say, the user is told how to continue."""
    try:
        yield
    except UserError:
        log.info("%s", how_to_continue())
        raise


class _LogFiles:
    """Keeps what is said until there is a file for it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._waiting = MemoryHandler(capacity=1)  # passes everything on at once, but keeps it while there is no target
        self._waiting.setLevel(_level())
        log.addHandler(self._waiting)
        stack.callback(log.removeHandler, self._waiting)

    def begin(self, path: Path) -> None:
        """The file is added to, once; processes of further devices add only what goes wrong."""
        if self._waiting.target is not None:
            return
        self._waiting.setTarget(self._stack.enter_context(closing(LogFile(path))))
        self._waiting.flush()


_files: _LogFiles | None = None


def _level() -> int:
    """The first process speaks for all."""
    return logging.ERROR if is_helper_process() else logging.INFO


def logged(command: Callable[[Namespace], Result]) -> Callable[[Namespace], Result]:
    """A command whose run has a log also where it is called from Python, without the frame around a script.

    Then nothing is said on the terminal, and errors are the caller's; how the run ended is in its log.
    """

    @wraps(command)
    def with_log(options: Namespace) -> Result:
        if _files is not None:
            return command(options)
        with _log_files():
            try:
                return command(options)
            except BaseException as error:
                log.error("%s: %s", type(error).__name__, error)
                raise
            finally:
                unlock_directories()

    return with_log


@contextmanager
def _log_files() -> Iterator[None]:
    """What is said in this block goes into the log of the run that it begins."""
    global _files
    with ExitStack() as stack:
        log.setLevel(logging.INFO)
        _files = _LogFiles(stack)
        stack.callback(_no_files)
        yield


def _no_files() -> None:
    global _files
    _files = None


@contextmanager
def _terminal() -> Iterator[None]:
    handler = _Terminal(sys.stderr)
    handler.setFormatter(TerminalFormatter())
    handler.setLevel(_level())
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _log_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object) -> None:
    """A library's warning, on a line of its own and in the run's log."""
    log.warning("%s (%s, %s:%d)", message, category.__name__, filename, lineno)


class _Terminal(logging.StreamHandler[TextIO]):
    """Lines of their own beside progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        if not (getattr(record, "on_bar", False) or getattr(record, "for_file_only", False)):
            with without_bars():
                super().emit(record)

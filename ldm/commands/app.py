"""The frame around every command: what it prints on the terminal and writes into the run's log, and how it ends."""

import logging
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import NoReturn, TextIO, TypeVar

from ldm.disk import write_error
from ldm.environment import refuse_wrong_numbers
from ldm.errors import UserError
from ldm.interruption import (
    STATUS,
    Stopped,
    ignore_signals,
    install_handlers,
    restore_handlers,
    resume_hint,
    set_resume_command,
    unblock_signals,
)
from ldm.locking import unlock_directories
from ldm.processes import DIED, ProcessDiedError, end_with_parent, is_helper_process, own_rank
from ldm.progress import Tolerant, open_closed_streams, without_bars
from ldm.terminal import Lines, TerminalFormatter, log_file_formatter

log = logging.getLogger("ldm")

Result = TypeVar("Result")

RUN_LOG = "run.log"


def launch(command: Callable[[], None]) -> NoReturn:
    """Runs a command as the only one of this process, and exits with its status."""
    open_closed_streams()
    install_handlers()
    warnings.showwarning = _log_warning  # type: ignore[assignment]
    if is_helper_process():
        end_with_parent(reports=own_rank() == 1)
    sys.stdout, sys.stderr = Tolerant(sys.stdout), Tolerant(sys.stderr)
    status = run(command)
    if status != STATUS:  # otherwise a second signal still stops what is being written
        ignore_signals()
    sys.exit(status)


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit status, one of those that `--help` names (`EXIT_STATUSES`)."""
    set_resume_command("")
    alone = install_handlers()  # not where `launch` has done so
    with _terminal(), _run_log():
        try:
            unblock_signals()
            return _status_of(command)
        except (Stopped, KeyboardInterrupt) as stop:  # perhaps while an error was being logged
            words = "stopped" if isinstance(stop, KeyboardInterrupt) else stop
            log.log(logging.DEBUG if is_helper_process() else logging.ERROR, "%s; %s", words, resume_hint())
            return STATUS
        finally:
            unlock_directories()
            if alone:
                restore_handlers()


def _status_of(command: Callable[[], None]) -> int:
    """Runs a command, logs the error that ends it, and returns its exit status. A signal's exceptions come through."""
    try:
        refuse_wrong_numbers()  # before a library is imported that reads them
        command()
    except UserError as error:
        log.error("error: %s", error)
        return 2
    except PermissionError as error:  # of a directory that may not even be listed
        log.error("error: %s: %s", error.filename, error.strerror)
        return 2
    except ProcessDiedError as error:
        log.error("error: %s; %s", error, resume_hint())
        return DIED
    except Exception:
        # Python writes it to the terminal.
        lines = Lines(traceback.format_exc().rstrip().split("\n"))
        log.critical("unexpected error\n%s", lines, extra={"for_file_only": True})
        raise
    return 0


def begin_run(directory: Path, command: str) -> None:
    """A run begins in this directory: its log file starts with what was logged so far, and `command` resumes it."""
    set_resume_command(command)
    if _current is not None:
        _current.begin(directory / RUN_LOG)


@contextmanager
def resume_hint_on_error() -> Iterator[None]:
    """If the block ends with a user's error, such as a full disk, logs how to resume the run."""
    try:
        yield
    except UserError:
        log.info("%s", resume_hint())
        raise


def logged(command: Callable[[Namespace], Result]) -> Callable[[Namespace], Result]:
    """Decorates a command: its run has a log file also when Python calls the command without `launch`.

    Then nothing is printed, errors reach the caller, and the log file holds the error that ended the run.
    """

    @wraps(command)
    def with_log(options: Namespace) -> Result:
        if _current is not None:
            return command(options)
        with _run_log():
            try:
                return command(options)
            except BaseException as error:
                log.error("%s: %s", type(error).__name__, error)
                raise
            finally:
                unlock_directories()

    return with_log


_current: "RunLogHandler | None" = None


@contextmanager
def _run_log() -> Iterator[None]:
    """What is logged in this block goes into the log file of the run that begins in it."""
    global _current
    log.setLevel(logging.INFO)
    _current = RunLogHandler(_level())
    log.addHandler(_current)
    try:
        yield
    finally:
        log.removeHandler(_current)
        _current.close()
        _current = None


class RunLogHandler(logging.Handler):
    """Keeps what is logged until the run has a directory; from then on writes it to the run's log file."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._waiting: list[logging.LogRecord] = []
        self._file: LogFile | None = None

    def begin(self, path: Path) -> None:
        """Opens the log file, which an earlier process may have begun. Only the first call of a run does."""
        if self._file is None:
            self._file = LogFile(path)
            for record in self._waiting:
                self._file.handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        if self._file is None:
            self._waiting.append(record)
        else:
            self._file.handle(record)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        super().close()


class LogFile(logging.FileHandler):
    """Appends lines with their time. A full disk does not end the run: it is reported once, and lines are retried."""

    def __init__(self, path: Path) -> None:
        self._reported = False
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise write_error(path, error) from error
        self.setFormatter(log_file_formatter())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        """Called by `logging` where a line can't be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._reported:
            self._reported = True
            log.warning("%s; lines are missing there", write_error(Path(self.baseFilename), error))

    def close(self) -> None:
        """Tries to write what could not be written before."""
        with suppress(OSError):  # reported when the line came
            super().close()


def _level() -> int:
    """Of several processes the first logs everything, the others only errors."""
    return logging.ERROR if is_helper_process() else logging.INFO


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
    """Logs a library's warning like ours."""
    log.warning("%s (%s, %s:%d)", message, category.__name__, filename, lineno)


class _Terminal(logging.StreamHandler[TextIO]):
    """Prints lines above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        if not (getattr(record, "on_bar", False) or getattr(record, "for_file_only", False)):
            with without_bars():
                super().emit(record)

"""The frame around every command: logging to the terminal, and a user's mistake told without a traceback."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from ldm.commands.log_file import LogFile
from ldm.errors import UserError
from ldm.locking import unlock_directories
from ldm.terminal import TerminalFormatter

log = logging.getLogger("ldm")


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit status: 0 done, 2 a mistake that the user can mend, 130 interrupted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TerminalFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        command()
    except UserError as error:
        log.error("error: %s", error)
        return 2
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    finally:
        unlock_directories()
        log.removeHandler(handler)
    return 0


@contextmanager
def run_log() -> Iterator[Callable[[Path], None]]:
    """Writes what is said meanwhile to a file as well, with the time.

    The file is named by calling what is yielded, once there is a directory for it: what was said before comes first.
    """
    with ExitStack() as stack:
        waiting = MemoryHandler(capacity=1)  # passes everything on at once, but keeps it while there is no target
        log.addHandler(waiting)
        stack.callback(log.removeHandler, waiting)

        def begin(path: Path) -> None:
            file = stack.enter_context(closing(LogFile(path)))
            waiting.setTarget(file)
            waiting.flush()

        yield begin

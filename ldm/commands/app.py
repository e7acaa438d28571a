"""The frame around every command: logging to the terminal, and a user's mistake told without a traceback."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.errors import UserError

log = logging.getLogger("ldm")


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit status: 0 done, 2 a mistake that the user can mend, 130 interrupted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Terminal())
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
        log.removeHandler(handler)
    return 0


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Writes what is said meanwhile to a file as well, with the time."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class _Terminal(logging.Formatter):
    """Plain words; only warnings carry their level."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return f"warning: {message}" if record.levelno == logging.WARNING else message

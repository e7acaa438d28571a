"""The file of a run's log: a full disk neither ends the run nor hides what is said on the terminal."""

import contextlib
import logging
import sys
from pathlib import Path

from ldm.disk import write_error
from ldm.terminal import log_file_formatter

log = logging.getLogger(__name__)


class LogFile(logging.FileHandler):
    """Adds lines to a file, with the time. That it can't be written is said once; each further line is tried again."""

    def __init__(self, path: Path) -> None:
        self._said = False
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
        elif not self._said:
            self._said = True
            log.warning("%s; lines are missing there", write_error(Path(self.baseFilename), error))

    def close(self) -> None:
        """Tries to write what could not be written before."""
        with contextlib.suppress(OSError):  # that was said when the line came
            super().close()

"""Logs of a training: the interface of a logger, the CSV logger, and the adapter to Lightning.

`ldm/choices.py` names the loggers. A new one is a file with a subclass of `RunLog` and a line there.
"""

import csv
import io
import logging
import os
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import Logger

from ldm.choices import LOGGERS
from ldm.disk import write_all, write_error
from ldm.processes import is_helper_process

log = logging.getLogger(__name__)

LOG_DIR = "log"

Report = Callable[[OSError], None]


class RunLog:
    """Logs nothing (`--logger none`); the base class of all loggers, which override the methods for what they show.

    Only the first process of a training calls it. An `OSError` that a method raises is reported once, and the training
    goes on. A resumed run makes a new log for the same directory: it should append.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """The run's `log/`, which may not exist yet."""
        self.path = directory
        """What errors name: the directory, or the file in it."""

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs values by name, such as `loss/total`, after `step` updates counted from 0."""

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        """Logs an RGB image after update `step`."""

    def log_text(self, name: str, text: str, step: int) -> None:
        """Logs a text after update `step`."""

    def close(self) -> None:
        """Closes the log, after the last call of another method."""

    def threads(self, report: Report) -> AbstractContextManager[object]:
        """A context for the training, in which errors of the log's own threads are reported, if it has any."""
        return nullcontext()


class CSVLog(RunLog):
    """Appends a row per logged step to `metrics.csv`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.path = directory / "metrics.csv"

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes a row; the header comes with the first one."""
        row = {"step": step, **{name: value for name, value in sorted(values.items()) if name != "epoch"}}
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, row)
        if not self.path.exists():
            writer.writeheader()
        writer.writerow(row)
        self._append(text.getvalue().encode())

    def _append(self, data: bytes) -> None:
        """Adds all of it or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab", buffering=0) as file:
                write_all(file, data)
        except OSError:
            if self.path.exists():
                os.truncate(self.path, before)
            raise


class LightningLog(Logger):
    """A `RunLog` as Lightning calls it. A log that can't be written is reported once and ends no training."""

    def __init__(self, run_log: RunLog) -> None:
        super().__init__()
        self.run_log = run_log
        self._reported = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Lightning's name for the log."""
        return LOG_DIR

    @property
    def version(self) -> str:
        """One per run."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run record has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Lightning's name for `log_scalars`."""
        self.log_scalars(metrics, step or 0)

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Logs values by name."""
        with self._errors_reported():
            self.run_log.log_scalars(values, step)

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        """Logs an RGB image."""
        with self._errors_reported():
            self.run_log.log_image(name, image, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Logs a text."""
        with self._errors_reported():
            self.run_log.log_text(name, text, step)

    def finalize(self, status: str) -> None:
        """Closes the log after a training."""
        with self._errors_reported():
            self.run_log.close()

    def threads(self) -> AbstractContextManager[object]:
        """A context for the training, in which errors of the log's own threads are reported too."""
        return self.run_log.threads(self._report)

    @contextmanager
    def _errors_reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        """Once, whichever thread comes first."""
        with self._lock:
            if not self._reported:
                log.warning("%s; the training goes on", write_error(self.run_log.path, error))
            self._reported = True


def build_logger(name: str, run_dir: Path) -> LightningLog:
    """The logger of this name (`ldm.choices.LOGGERS`) for a run; processes beyond the first log nothing."""
    kind: type[RunLog] = RunLog if is_helper_process() else LOGGERS[name].load()
    return LightningLog(kind(run_dir / LOG_DIR))

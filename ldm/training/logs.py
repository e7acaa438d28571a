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
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
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

    @classmethod
    def raise_if_unusable(cls) -> None:
        """Raises `UserError`, before a run begins, if the logger needs something that isn't there."""

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
        """Writes a row; the header comes with the first one. Values that the header doesn't have are left out."""
        row = {"step": step, **{name: value for name, value in sorted(values.items()) if name != "epoch"}}
        text = io.StringIO(newline="")
        header = self._header()
        writer = csv.DictWriter(text, header or row, extrasaction="ignore")
        if not header:
            writer.writeheader()
        writer.writerow(row)
        self._append(text.getvalue().encode())

    def _header(self) -> list[str]:
        """The columns of the file, which an older version may have begun; none if there is no file."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])

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
    """Several `RunLog`s as Lightning calls one. A log that can't be written is reported once and ends no training."""

    def __init__(self, *run_logs: RunLog) -> None:
        super().__init__()
        self.run_logs = run_logs
        self._reported: set[RunLog] = set()
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
        self._each(lambda one: one.log_scalars(values, step))

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        """Logs an RGB image."""
        self._each(lambda one: one.log_image(name, image, step))

    def log_text(self, name: str, text: str, step: int) -> None:
        """Logs a text."""
        self._each(lambda one: one.log_text(name, text, step))

    def finalize(self, status: str) -> None:
        """Closes the log after a training."""
        self._each(lambda one: one.close())

    @contextmanager
    def threads(self) -> Iterator[None]:
        """A context for the training, in which errors of the logs' own threads are reported too."""
        with ExitStack() as stack:
            for one in self.run_logs:
                stack.enter_context(one.threads(partial(self._report, one)))
            yield

    def _each(self, call: Callable[[RunLog], None]) -> None:
        for one in self.run_logs:
            try:
                call(one)
            except OSError as error:
                self._report(one, error)

    def _report(self, run_log: RunLog, error: OSError) -> None:
        """Once for each log, whichever thread comes first."""
        with self._lock:
            if run_log not in self._reported:
                log.warning("%s; the training goes on", write_error(run_log.path, error))
            self._reported.add(run_log)


def refuse_unusable_loggers(names: str) -> None:
    """Raises `UserError` if one of the loggers of these names, separated by commas, can't log here."""
    for name in names.split(",") if not is_helper_process() else []:
        LOGGERS[name].load().raise_if_unusable()


def build_logger(names: str, run_dir: Path) -> LightningLog:
    """The loggers of these names (`ldm.choices.LOGGERS`), separated by commas, for a run.

    Processes beyond the first log nothing.
    """
    kinds: list[type[RunLog]] = [RunLog] if is_helper_process() else [LOGGERS[one].load() for one in names.split(",")]
    return LightningLog(*(kind(run_dir / LOG_DIR) for kind in kinds))

"""Where the losses go: TensorBoard, a CSV file that a continued run goes on writing, or nowhere.

A log that can't be written, such as on a full disk, ends no training: that is said once.
"""

import csv
import io
import logging
import os
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from ldm.disk import write_all, write_error
from ldm.files import openable

log = logging.getLogger(__name__)

LOG_DIR = "log"

_FOR_GOOD = ExitStack()


class CSVLog(Logger):
    """Appends a row per logged step to `metrics.csv`; Lightning's own would delete what an earlier process wrote."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = directory / "metrics.csv"
        self._said = False

    @property
    def name(self) -> str:
        """Lightning's name for the log."""
        return LOG_DIR

    @property
    def version(self) -> str:
        """One per run."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """They stand in the run's record."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Writes the losses of a step; the header comes with the first row."""
        row = {"step": step, **{name: value for name, value in sorted(metrics.items()) if name != "epoch"}}
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, row)
        if not self.path.exists():
            writer.writeheader()
        writer.writerow(row)
        try:
            self._append(text.getvalue().encode())
        except OSError as error:
            if not self._said:
                log.warning("%s; the training goes on", write_error(self.path, error))
            self._said = True

    def _append(self, data: bytes) -> None:
        """Adds the whole of it, or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab", buffering=0) as file:
                write_all(file, data)
        except OSError:
            if self.path.exists():
                os.truncate(self.path, before)
            raise


class EventLog(TensorBoardLogger):
    """TensorBoard's, which is written by a thread of its own; what can't be written is done without."""

    def __init__(self, run_dir: Path) -> None:
        # As long as this process lives: TensorBoard opens its file when the first number comes.
        super().__init__(_FOR_GOOD.enter_context(openable(run_dir)), name="", version=LOG_DIR)
        self.path = run_dir / LOG_DIR
        self._said = False
        self._saying = threading.Lock()

    @property
    def experiment(self) -> Any:
        """What scalars and images are added to."""
        try:
            return _Forgiving(super().experiment, self._say)
        except OSError as error:
            self._say(error)
            return _Forgiving(None, self._say)

    def save(self) -> None:
        """Lightning writes the training's hyperparameters here."""
        try:
            super().save()
        except OSError as error:
            self._say(error)

    @contextmanager
    def no_traceback_of_its_thread(self) -> Iterator[None]:
        """Around a training: an error of the thread is raised in the training as well, and said there."""
        before = threading.excepthook

        def hook(args: threading.ExceptHookArgs) -> None:
            if isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard"):
                self._say(args.exc_value)
            else:
                before(args)

        threading.excepthook = hook
        try:
            yield
        finally:
            threading.excepthook = before

    def _say(self, error: OSError) -> None:
        """Once, whichever thread comes first."""
        with self._saying:
            if not self._said:
                log.warning("%s; the training goes on", write_error(self.path, error))
            self._said = True


class _Forgiving:
    """A writer of events whose methods tell of an `OSError` instead of raising it; None does nothing."""

    def __init__(self, writer: Any, say: Callable[[OSError], None]) -> None:
        self._writer = writer
        self._say = say

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return getattr(self._writer, name)(*args, **kwargs) if self._writer else None
            except OSError as error:
                self._say(error)
                return None

        return call


def build_logger(name: str, run_dir: Path) -> Logger | bool:
    """The logger of this name in `run_dir`; False for none."""
    match name:
        case "tensorboard":
            logging.getLogger("tensorboard").setLevel(logging.ERROR)
            return EventLog(run_dir)
        case "csv":
            return CSVLog(run_dir / LOG_DIR)
    return False

"""Where the losses go: TensorBoard, a CSV file that a continued run goes on writing, or nowhere."""

import csv
import logging
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from ldm.files import openable

LOG_DIR = "log"

_FOR_GOOD = ExitStack()


class CSVLog(Logger):
    """Appends a row per logged step to `metrics.csv`; Lightning's own would delete what an earlier process wrote."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = directory / "metrics.csv"

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def build_logger(name: str, run_dir: Path) -> Logger | bool:
    """The logger of this name in `run_dir`; False for none."""
    match name:
        case "tensorboard":
            logging.getLogger("tensorboard").setLevel(logging.ERROR)
            # As long as this process lives: TensorBoard opens its file when the first number comes.
            return TensorBoardLogger(_FOR_GOOD.enter_context(openable(run_dir)), name="", version=LOG_DIR)
        case "csv":
            return CSVLog(run_dir / LOG_DIR)
    return False

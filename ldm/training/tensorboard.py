"""The TensorBoard log: scalars, images and text. No other module knows TensorBoard."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ldm.files import openable
from ldm.training.logs import Report, RunLog

_UNTIL_THE_PROCESS_ENDS = ExitStack()


class TensorBoardLog(RunLog):
    """Writes event files into the run's `log/`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        logging.getLogger("tensorboard").setLevel(logging.ERROR)

    @cached_property
    def writer(self) -> SummaryWriter:
        """Opens its file when it is first needed, and has a thread of its own that writes."""
        run_dir = _UNTIL_THE_PROCESS_ENDS.enter_context(openable(self.directory.parent))
        return SummaryWriter(str(Path(run_dir) / self.directory.name))

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        """Adds the image."""
        self.writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def log_text(self, name: str, text: str, step: int) -> None:
        """Adds the text, which TensorBoard shows as Markdown."""
        self.writer.add_text(name, text, step)

    def close(self) -> None:
        """Flushes and closes the file; the next call of another method would open a new one."""
        if "writer" in vars(self):
            self.writer.close()

    @contextmanager
    def threads(self, report: Report) -> Iterator[None]:
        """The thread's errors are reported; without this Python would print their traceback."""
        before = threading.excepthook

        def hook(args: threading.ExceptHookArgs) -> None:
            if isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard"):
                report(args.exc_value)
            else:
                before(args)

        threading.excepthook = hook
        try:
            yield
        finally:
            threading.excepthook = before

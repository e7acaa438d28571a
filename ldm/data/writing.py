"""Images are encoded and written by threads while the next ones are sampled."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

from torch import Tensor

from ldm.background import BackgroundWriter
from ldm.data.images import save_png, to_image

THREADS = 3
"""A GPU samples an image in about the time in which one thread encodes it."""


class ImageWriter:
    """A `BackgroundWriter` of PNG files. When its block ends all are written, also after an error or an interrupt."""

    def __init__(self, most_waiting: int) -> None:
        self._writer = BackgroundWriter(THREADS, most_waiting)

    def put(self, path: Path, image: Tensor, text: Mapping[str, object]) -> None:
        """Writes the image of a tensor (3 h w) in [-1, 1], with text chunks.

        Waits while `most_waiting` are not written. Raises `UserError` if an earlier one failed.
        """
        self._writer.put(partial(_write, path, image, text))

    def __enter__(self) -> "ImageWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, traceback)


def _write(path: Path, image: Tensor, text: Mapping[str, object]) -> None:
    save_png(path, to_image(image), text)

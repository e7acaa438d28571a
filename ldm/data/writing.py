"""Images are encoded and written by a few threads while the next are drawn."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from torch import Tensor

from ldm.data.images import save_png, to_image

THREADS = 3
"""A GPU draws an image in about the time in which one thread encodes it."""


class ImageWriter:
    """Takes images and returns at once, unless `most_waiting` are not written yet.

    When the block ends all are written, also if it ends by an error. What a thread could not write is raised here.
    """

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="write")
        self._waiting: deque[Future[None]] = deque()

    def put(self, path: Path, image: Tensor, text: Mapping[str, object]) -> None:
        """Writes the image of a tensor (3 h w) in [-1, 1]. Raises `UserError` if an earlier one failed."""
        while self._waiting and (len(self._waiting) >= self.most_waiting or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(_write, path, image, text))

    def __enter__(self) -> "ImageWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        while error is None and self._waiting:
            self._waiting.popleft().result()


def _write(path: Path, image: Tensor, text: Mapping[str, object]) -> None:
    save_png(path, to_image(image), text)

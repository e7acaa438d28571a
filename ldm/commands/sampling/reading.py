"""The next checkpoint is read by a thread while the current one draws."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.errors import UserError, named_in_errors

ALIGNMENT, PAGE = 64, 4096
"""In bytes: where torch begins its own tensors, and what is read from a file at a time."""


class Readable(Protocol):
    """A file and what tells its parts from those of others."""

    @property
    def path(self) -> Path: ...

    @property
    def parts(self) -> Mapping[str, str]: ...


class ReadAhead:
    """Gives files in their order, with those parts in memory that differ from the file before.

    One file at most is read ahead.
    """

    def __init__(self, files: Sequence[Readable]) -> None:
        self._left = list(files)
        self._before: Mapping[str, str] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._next: Future[CheckpointFile] | None = None
        self._start()

    def take(self) -> CheckpointFile:
        """The next file; the one after it is read from now on. Raises `UserError` if it can't be read."""
        assert self._next is not None, "there is no file left"
        try:
            return self._next.result()
        except UserError:
            self._before = {}  # nothing of it is in memory
            raise
        finally:
            self._start()

    def _start(self) -> None:
        self._next = None
        if self._left:
            one = self._left.pop(0)
            differing = {part for part in PARTS if one.parts[part] != self._before.get(part)}
            self._before = one.parts
            self._next = self._pool.submit(_read, one.path, differing)

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _read(path: Path, parts: set[str]) -> CheckpointFile:
    """The file with these parts in memory; of the others, what isn't used isn't read."""
    with named_in_errors(path):
        file = read_checkpoint(path)
        prefixes = tuple(PARTS[part] for part in parts)
        return replace(
            file,
            tensors={
                key: _in_memory(tensor) if key.startswith(prefixes) else tensor for key, tensor in file.tensors.items()
            },
        )


def _in_memory(tensor: Tensor) -> Tensor:
    """A tensor mapped from a file, with its pages read; a copy of one that isn't aligned there.

    On some processors the alignment decides in which order numbers are added, and an image would depend on what else
    its file holds. The official `.ckpt` is aligned and stays in memory once.
    """
    if tensor.data_ptr() % ALIGNMENT:
        return tensor.clone()
    tensor.reshape(-1).view(torch.uint8)[::PAGE].sum()
    return tensor

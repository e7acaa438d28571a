"""The resume state: all that a training needs to resume. Written atomically, read without executing code."""

from functools import partial
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ldm.background import BackgroundWriter
from ldm.checkpoint.discovery import BEFORE_FIRST_SAVE
from ldm.checkpoint.saving import snapshot
from ldm.disk import write_all
from ldm.errors import UserError
from ldm.files import atomic_path, openable
from ldm.host_memory import available_memory
from ldm.user_files import open_file


class ResumeStateIO(CheckpointIO):
    """Writes Lightning's state to a temporary file and renames it; reads tensors only.

    With a `writer`, a copy of the state is written in the background if the memory has room for two copies.
    """

    def __init__(self, writer: BackgroundWriter | None = None) -> None:
        self.writer = writer
        self._step: object = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        step = checkpoint.get("global_step")
        if step is not None and step == self._step:
            return  # a training may be stopped after a step that was saved
        self._step = step
        if self.writer is None:
            write_state(checkpoint, Path(path))
        elif (available_memory() or 0) > 2 * tensor_bytes(checkpoint):
            copied = tree_map_only(Tensor, lambda tensor: snapshot(tensor, tensor.dtype), checkpoint)
            self.writer.put(partial(write_state, copied, Path(path)))
        else:
            self.writer.wait()
            write_state(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        open_file(Path(path), "resume state").close()  # refuses a named pipe, which would block for ever
        try:
            with openable(Path(path)) as name:
                state: dict[str, Any] = torch.load(name, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch raise
            raise UserError(f"the resume state {path} can't be read: it is damaged, or not one of ours") from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def updates_made(path: Path) -> int:
    """The updates of a run that a resume state was saved after; reads no weight."""
    return int(ResumeStateIO().load_checkpoint(path)["global_step"])


def write_state(state: dict[str, Any], path: Path) -> None:
    """Writes a resume state, atomically. Raises `UserError` if the file system doesn't let it."""
    with atomic_path(path, tensor_bytes(state)) as partial_path:
        try:
            torch.save(state, partial_path)
        except RuntimeError:  # torch's own writer is faster, but its error doesn't name the system's
            _write_in_python(state, partial_path)
    (path.parent / BEFORE_FIRST_SAVE).unlink(missing_ok=True)


def _write_in_python(state: dict[str, Any], path: Path) -> None:
    """Writes a state more slowly; raises the system's `OSError`."""
    with path.open("wb", buffering=0) as raw:
        file = _ErrorKeepingFile(raw)
        try:
            torch.save(state, cast(IO[bytes], file))
        except RuntimeError as error:
            if file.error is not None:
                raise file.error from error
            raise


class _ErrorKeepingFile:
    """A file that keeps its `OSError`, which torch replaces by one of its own."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            write_all(self.file, data)
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered."""


def tensor_bytes(state: dict[str, Any]) -> int:
    """Bytes of a state's tensors."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))

"""The resume state of a training: everything that it needs to go on, written whole and read without running code."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ldm.background import BackgroundWriter
from ldm.checkpoint.saving import snapshot
from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.host_memory import available_memory


class ResumeStateIO(CheckpointIO):
    """Writes Lightning's state straight to a temporary file and renames it; reads tensors only.

    With a `writer` a copy of the state is written in the background, if memory has room for two of them.
    """

    def __init__(self, writer: BackgroundWriter | None = None) -> None:
        self.writer = writer
        self._step: object = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        step = checkpoint.get("global_step")
        if step is not None and step == self._step:
            return  # whoever stops a training may do so after a step that was saved
        self._step = step
        if self.writer is None:
            write_state(checkpoint, Path(path))
        elif (available_memory() or 0) > 2 * state_bytes(checkpoint):
            copied = tree_map_only(Tensor, lambda tensor: snapshot(tensor, tensor.dtype), checkpoint)
            self.writer.put(partial(write_state, copied, Path(path)))
        else:
            self.writer.wait()
            write_state(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch raise
            raise UserError(f"the resume state {path} can't be read: it is damaged, or not one of ours") from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def write_state(state: dict[str, Any], path: Path) -> None:
    """Writes a resume state, atomically. Raises `UserError` if that is not possible."""
    try:
        with atomic_path(path) as partial_path:
            torch.save(state, partial_path)
    except RuntimeError as error:  # torch's word for a full disk
        raise UserError(f"could not write {path}: {error}") from error


def state_bytes(state: dict[str, Any]) -> int:
    """What the tensors of a state take."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))

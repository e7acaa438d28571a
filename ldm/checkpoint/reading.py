"""Reading checkpoint files: safetensors, and torch's zipped pickles without executing anything in them.

Tensors come mapped from the file, so that reading costs nothing until they are used and memory holds them once.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.checkpoint.foreign import HEAD_BYTES, describe_foreign
from ldm.checkpoint.pickle_guard import refused_names
from ldm.checkpoint.torch_zip import LARGEST_PICKLE, MOST_TENSORS, read_torch_zip, refusal
from ldm.errors import UserError
from ldm.files import openable
from ldm.user_files import open_file

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""In lower case; files may have them in capitals."""

LARGEST_HEADER = 16 * 2**20
"""Bytes of a safetensors file's header. The official file's has 130,000; a trainer's notes may come on top."""


@dataclass(frozen=True)
class CheckpointFile:
    """The tensors of a file, mapped on the CPU, by the names they have there; its metadata (safetensors only)."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> CheckpointFile:
    """Reads a file by its content, not its name. Raises `UserError` for a missing, truncated, foreign or unsafe one."""
    with open_file(path, "checkpoint") as file:
        try:
            read = _read(file, path)
        except OSError as error:
            raise UserError(f"could not read {path}: {error.strerror or error}") from error
    if not read.tensors:
        raise UserError(f"{path} holds no tensors")
    return read


def _read(file: BinaryIO, path: Path) -> CheckpointFile:
    head, size = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
    if head.startswith(b"PK\x03\x04"):
        return CheckpointFile(path, read_torch_zip(file, path))
    if foreign := describe_foreign(head, size):
        raise UserError(f"{path} is neither a safetensors file nor a torch checkpoint: it is {foreign}")
    if head[8:9] == b"{":
        return _read_safetensors(path, int.from_bytes(head[:8], "little"), size)
    if head.startswith((b"\x80", b"(")):
        _refuse_pickle(file, path)
    raise UserError(f"{path} is neither a safetensors file nor a torch checkpoint")


def _read_safetensors(path: Path, header: int, size: int) -> CheckpointFile:
    if LARGEST_HEADER < header < size:
        raise UserError(f"{path}: its header has {header:,} bytes; a checkpoint's has {LARGEST_HEADER:,} at most")
    try:
        with openable(path) as name, safe_open(name, framework="pt", device="cpu") as opened:
            keys = opened.keys()
            if len(keys) > MOST_TENSORS:
                raise UserError(f"{path} holds {len(keys):,} tensors; a checkpoint has {MOST_TENSORS:,} at most")
            tensors = {key: opened.get_tensor(key) for key in keys}
            return CheckpointFile(path, tensors, dict(opened.metadata() or {}))
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut off: {str(error)[:200]}") from error
    except Exception as error:  # whatever an unusual type or shape makes torch raise
        raise UserError(f"{path} can't be read: {str(error)[:200]}") from error


def _refuse_pickle(file: BinaryIO, path: Path) -> None:
    """Of a file without a zip file's index: it names what it would run, or it is of an old kind."""
    file.seek(0)
    pickle = file.read(LARGEST_PICKLE)
    whole = len(pickle) < LARGEST_PICKLE
    try:
        names = refused_names(pickle)
    except (ValueError, RecursionError) as error:
        if whole:
            raise UserError(f"{path} is damaged or cut off: {str(error)[:200]}") from error
        names = []
    if names:
        raise UserError(refusal(path, names))
    raise UserError(
        f"{path} is a bare pickle, not a torch checkpoint; save it again with torch >= 1.6 or as safetensors"
    )

"""Reading checkpoints: safetensors, torch's zipped pickles without executing anything in them, diffusers directories.

Tensors are mapped from the file: reading costs nothing until they are used, and memory holds them once.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.background import raise_if_cancelled
from ldm.checkpoint.diffusers_directory import Content, read_diffusers_directory
from ldm.checkpoint.foreign import HEAD_BYTES, describe_foreign
from ldm.checkpoint.keys import in_official_layout
from ldm.checkpoint.learned_words import Embedding
from ldm.checkpoint.torch_zip import LARGEST_PICKLE, MOST_TENSORS, read_torch_zip, refusal
from ldm.checkpoint.unpickling import refused_names
from ldm.errors import UserError
from ldm.files import openable
from ldm.user_files import is_diffusers_directory, open_file

LARGEST_HEADER = 16 * 2**20
"""Bytes of a safetensors file's header. The official file's has 130,000; a trainer may add notes to it."""

ALIGNMENT, PAGE = 64, 4096
"""Bytes: the alignment of torch's own tensors, and a page of a mapped file."""


@dataclass(frozen=True)
class CheckpointFile:
    """The tensors of a file on the CPU, by official name, and its metadata."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Mapped from the file; with an adapter (`ldm.checkpoint.merging`), computed each time one is looked up."""
    metadata: dict[str, str] = field(default_factory=dict)
    embeddings: tuple[Embedding, ...] = ()
    """Words that its text encoder gets, beside those of the vocabulary."""

    @property
    def index(self) -> Mapping[str, Tensor]:
        """Names, shapes and types of `tensors` without computing any: the numbers may be those before merging."""
        return self.tensors

    def opener(self) -> Callable[[], "CheckpointFile"]:
        """A function that reads the same file again, with its adapters; it holds no tensors of the file."""
        return partial(read_checkpoint, self.path)

    def in_memory(self, prefixes: tuple[str, ...]) -> "CheckpointFile":
        """The same with the stored tensors in memory whose names have one of these prefixes; the others stay mapped."""
        tensors = {}
        for key, tensor in self.tensors.items():
            raise_if_cancelled()
            tensors[key] = _in_memory(tensor) if key.startswith(prefixes) else tensor
        return replace(self, tensors=tensors)


def _in_memory(tensor: Tensor) -> Tensor:
    """A tensor mapped from a file, with its pages read; a copy if it isn't aligned there.

    On some processors the alignment decides in which order numbers are added: an image would depend on what else its
    file holds. The official `.ckpt` is aligned, so it is in memory once.
    """
    if tensor.data_ptr() % ALIGNMENT:
        return tensor.clone()
    tensor.reshape(-1).view(torch.uint8)[::PAGE].sum()
    return tensor


def read_checkpoint(path: Path) -> CheckpointFile:
    """Reads a file by its content, not its name, or a diffusers directory.

    Raises `UserError` for a missing, truncated, foreign or unsafe one.
    """
    if is_diffusers_directory(path):
        return CheckpointFile(path, *read_diffusers_directory(path, read_content))
    tensors, metadata = read_content(path)
    return CheckpointFile(path, in_official_layout(tensors), metadata)


def read_content(path: Path) -> Content:
    """The tensors of a file under the names in it, and its metadata. Raises `UserError` as `read_checkpoint` does."""
    with open_file(path, "checkpoint") as file:
        try:
            tensors, metadata = _read(file, path)
        except OSError as error:
            raise UserError(f"could not read {path}: {error.strerror or error}") from error
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return tensors, metadata


def _read(file: BinaryIO, path: Path) -> Content:
    head = file.read(HEAD_BYTES)
    for one in FORMATS:
        if one.begins(head):
            file.seek(0)
            return one.read(file, path)
    if foreign := describe_foreign(head):
        raise UserError(f"{path} is neither a safetensors file nor a torch checkpoint: it is {foreign}")
    if head.startswith((b"\x80", b"(")):
        _refuse_pickle(file, path)
    raise UserError(f"{path} is neither a safetensors file nor a torch checkpoint")


def read_safetensors(file: BinaryIO, path: Path) -> Content:
    """The tensors and metadata of a safetensors file. Raises `UserError` if it is damaged."""
    header, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if LARGEST_HEADER < header < size:
        raise UserError(f"{path}: its header has {header:,} bytes; a checkpoint's has {LARGEST_HEADER:,} at most")
    try:
        with openable(path) as name, safe_open(name, framework="pt", device="cpu") as opened:
            keys = opened.keys()
            if len(keys) > MOST_TENSORS:
                raise UserError(f"{path} holds {len(keys):,} tensors; a checkpoint has {MOST_TENSORS:,} at most")
            return {key: opened.get_tensor(key) for key in keys}, dict(opened.metadata() or {})
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut off: {str(error)[:200]}") from error
    except Exception as error:  # whatever an unusual type or shape makes torch raise
        raise UserError(f"{path} can't be read: {str(error)[:200]}") from error


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint file."""

    suffixes: tuple[str, ...]
    """Suffixes in lower case; files may have them in capitals. A directory is searched for files with them."""
    begins: Callable[[bytes], bool]
    """Whether a file is of this kind, given its first `HEAD_BYTES`, or all bytes of a shorter one."""
    read: Callable[[BinaryIO, Path], Content]
    """Reads a file from its beginning. Raises `UserError` if it is damaged or would run code."""


FORMATS = (
    Format((".ckpt", ".pt", ".pth", ".bin"), lambda head: head.startswith(b"PK\x03\x04"), read_torch_zip),
    Format((".safetensors",), lambda head: head[8:9] == b"{" and not describe_foreign(head), read_safetensors),
)
"""Tried in this order. A new format is a module with its reader, and a line here."""

SUFFIXES = tuple(suffix for one in FORMATS for suffix in one.suffixes)


def _refuse_pickle(file: BinaryIO, path: Path) -> None:
    """Raises `UserError` for a pickle that is not in a zip file: with the names it would call, or as an old file."""
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

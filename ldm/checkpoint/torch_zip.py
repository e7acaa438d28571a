"""torch's zipped pickles: an index of the tensors, and each storage's numbers as a record of the zip file.

The index is read without running it (`ldm.checkpoint.unpickling`). The numbers are mapped from the file, as
`torch.load(mmap=True)` does: reading costs nothing until they are used, and memory holds them once.
"""

import io
import math
import mmap
import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.unpickling import STORAGE_TYPES, UNTYPED_STORAGE, Storage, View, read_pickle, refused_among
from ldm.errors import UserError
from ldm.files import listed, natural_key

LARGEST_INDEX = 4 * 2**20
"""Bytes of the zip file's list of records. With Adam's moments and averaged weights it takes half a megabyte."""
LARGEST_PICKLE = 16 * 2**20
"""Bytes of the pickle, which takes half a megabyte, too; older Lightning files also keep their options there."""
MOST_TENSORS = 10_000
"""The official file with its averaged weights holds 1,831."""
MOST_DIMENSIONS = 16

LOCAL_HEADER_BYTES = 30

LEARNED = "string_to_param"
"""In the file of a textual inversion by A1111: a dictionary of its tensors."""
RESUME_STATE_KEYS = {"pytorch-lightning_version", "optimizer_states", "state_dict"}
"""What Lightning's file of a whole training holds, among others."""


@dataclass(frozen=True)
class _Record:
    """Where a record's content lies in the file."""

    start: int
    size: int


class _Bounded(io.BufferedReader):
    """Reads no more than `limit` bytes at a time: what a file says of its sizes is not to be trusted."""

    limit = LARGEST_INDEX

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise ValueError(f"a list of {size:,} bytes")
        return super().read(size)


def read_torch_zip(file: BinaryIO, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The named tensors of a torch file, mapped; it has no metadata.

    Raises `UserError` if it is damaged, foreign, or would run code.
    """
    try:
        # A descriptor of its own: the zip library closes the file it is given.
        with _Bounded(io.FileIO(os.dup(file.fileno()))) as bounded, zipfile.ZipFile(bounded) as archive:
            records = _records(archive, bounded, path)
            root, pickle = _pickle(archive, path)
            byteorder = archive.read(f"{root}byteorder") if f"{root}byteorder" in records else b""
        if byteorder not in (b"", sys.byteorder.encode()):
            raise UserError(f"{path} was written on a machine with another order of bytes; save it again there")
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes the zip library raise
        raise UserError(f"{path} is damaged or cut off: {error}") from error
    content = read_index(pickle, path)
    if isinstance(content, dict):
        _refuse_resume_state(content, path)
        content = content.get("state_dict", content)
        if isinstance(content, dict) and isinstance(learned := content.get(LEARNED), dict):
            content = {f"{LEARNED}.{key}": view for key, view in learned.items()}
    named = content if isinstance(content, dict) else {}
    views = {str(key): view for key, view in named.items() if isinstance(view, View)}
    if len(views) > MOST_TENSORS:
        raise UserError(f"{path} holds {len(views):,} tensors; a checkpoint has {MOST_TENSORS:,} at most")
    try:
        return _Mapped(file, root, records).tensors(views), {}
    except (ValueError, KeyError, RuntimeError, OSError, OverflowError) as error:
        raise UserError(f"{path} is damaged or was made to mislead: {str(error)[:200]}") from error


def _refuse_resume_state(content: Mapping[object, object], path: Path) -> None:
    """Raises `UserError` for what Lightning saved to resume a training; official files are Lightning's, too."""
    weights = content.get("state_dict")
    if not (content.keys() >= RESUME_STATE_KEYS and isinstance(weights, Mapping)):
        return
    if any(str(key).startswith(tuple(PARTS.values())) for key in weights):
        return
    saved = sorted(path.parent.glob("step-*.safetensors"), key=natural_key)
    instead = f"use a checkpoint of the run, such as {saved[-1]}" if saved else "the run has saved no checkpoint yet"
    raise UserError(f"{path} is the resume state of a training, not a checkpoint: it only resumes its run; {instead}")


def read_index(pickle: bytes, path: Path) -> Any:
    """What a pickle holds. Raises `UserError` if it can't be read or could run code."""
    try:
        pickled = read_pickle(pickle)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} can't be read as a torch checkpoint: it is damaged, or pickled in an unusual way "
            f"({str(error)[:200]}). Get it as safetensors, or save it again with torch.save's defaults"
        ) from error
    if refused := refused_among(pickled.names):
        raise UserError(refusal(path, refused))
    return pickled.content


def refusal(path: Path, refused: list[str]) -> str:
    """The message for a file whose pickle uses these names."""
    message = (
        f"{path} was not opened: it is a pickle that uses {listed(refused, 8)}, which could run code "
        "here. A checkpoint needs tensors only; get it as safetensors"
    )
    if any(name.startswith("torch.nn.modules.") for name in refused):
        message += (
            ". It looks like a whole model (torch.save(model, ...)): save its weights alone, with "
            "torch.save(model.state_dict(), ...)"
        )
    return message


def _pickle(archive: zipfile.ZipFile, path: Path) -> tuple[str, bytes]:
    """The folder within the zip file in which everything lies, and the pickle."""
    names = archive.namelist()
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"{path} is a zip file, but no torch checkpoint{_describe_zip(names)}")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise UserError(f"{path} is a TorchScript program, not a checkpoint; save the model's state_dict instead")
    size = archive.getinfo(pickles[0]).file_size
    if size > LARGEST_PICKLE:
        raise UserError(f"{path}: its data.pkl has {size:,} bytes; a checkpoint's has {LARGEST_PICKLE:,} at most")
    return root, archive.read(pickles[0])


def _describe_zip(names: list[str]) -> str:
    if any(name.endswith((".safetensors", ".ckpt", ".bin", ".pt")) for name in names):
        return ": it holds checkpoints; unpack it first"
    if any(name.endswith("data.pkl") for name in names):
        return ": it holds several"
    return ""


def _records(archive: zipfile.ZipFile, file: _Bounded, path: Path) -> dict[str, _Record]:
    """Each record by its name. Raises `UserError` for what torch never writes: it would be read in two ways."""
    size = os.fstat(file.fileno()).st_size
    file.limit = LARGEST_PICKLE
    records: dict[str, _Record] = {}
    for info in archive.infolist():
        if info.filename in records:
            raise UserError(f"{path} holds {info.filename[:80]} twice; torch doesn't write such files")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise UserError(
                f"{path}: {info.filename[:80]} in it is compressed or encrypted, which torch never does; "
                "save it again with torch.save, or get it as safetensors"
            )
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER_BYTES)
        if header[:4] != b"PK\x03\x04" or len(header) != LOCAL_HEADER_BYTES:
            raise ValueError(f"{info.filename[:80]} is not where the list of records says")
        before = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + LOCAL_HEADER_BYTES + before
        if start + info.file_size > size:
            raise ValueError(f"{info.filename[:80]} goes beyond the file's end")
        records[info.filename] = _Record(start, info.file_size)
    return records


class _Mapped:
    """Tensors that lie in the file itself."""

    def __init__(self, file: BinaryIO, root: str, records: dict[str, _Record]) -> None:
        self.root = root
        self.records = records
        # Private: what is written to a tensor doesn't reach the file.
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.bytes = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()

    def tensors(self, views: dict[str, View]) -> dict[str, Tensor]:
        return {key: self._tensor(key, view) for key, view in views.items()}

    def _tensor(self, key: str, view: View) -> Tensor:
        storage = view.storage
        dtype = _dtype(storage, view)
        itemsize = 1 if storage.kind == UNTYPED_STORAGE else dtype.itemsize
        record = self.records[f"{self.root}data/{storage.key}"]
        if not 0 <= storage.count * itemsize <= record.size:
            raise ValueError(f"{key[:80]} needs {storage.count:,} elements, but its record has {record.size:,} bytes")
        _raise_unless_within(key, view, storage.count * itemsize // dtype.itemsize)
        numbers = self.bytes[record.start : record.start + storage.count * itemsize]
        return torch.empty(0, dtype=dtype).set_(numbers, view.offset, view.size, view.stride)


def _dtype(storage: Storage, view: View) -> torch.dtype:
    """The type that the tensor names, else that of its storage."""
    name = view.dtype.removeprefix("torch.") if view.dtype else STORAGE_TYPES.get(storage.kind)
    dtype = getattr(torch, name or "", None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"numbers of an unknown type {storage.kind[:80]}")
    return dtype


def _raise_unless_within(key: str, view: View, count: int) -> None:
    """Raises `ValueError` unless a tensor's elements are among the `count` of its storage, and not more than these."""
    size, stride = view.size, view.stride
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise ValueError(f"{key[:80]} has no shape")
    if len(size) > MOST_DIMENSIONS:
        raise ValueError(f"{key[:80]} has {len(size)} dimensions")
    if not all(type(number) is int and 0 <= number < 2**62 for number in (view.offset, *size, *stride)):
        raise ValueError(f"{key[:80]} has an impossible shape")
    numel = math.prod(size)
    last = view.offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if numel else 0
    if last >= max(count, 1) or numel > count:
        raise ValueError(f"{key[:80]} has more elements than the {count:,} that are stored")

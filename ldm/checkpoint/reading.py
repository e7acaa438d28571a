"""Reading checkpoint files: safetensors, and torch's zipped pickles without executing anything in them.

Tensors come mapped from the file, so that reading costs nothing until they are used and memory holds them once.
"""

import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.checkpoint.pickle_guard import KNOWN_INERT, Inert, refused_names
from ldm.errors import UserError
from ldm.files import openable

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class CheckpointFile:
    """The tensors of a file, mapped on the CPU, by the names they have there; its metadata (safetensors only)."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> CheckpointFile:
    """Reads a file by its content, not its name. Raises `UserError` for a missing, truncated, foreign or unsafe one."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error

    if head[8:9] == b"{":
        return _with_tensors(_read_safetensors(path))
    if head.startswith(b"PK\x03\x04"):
        return _with_tensors(CheckpointFile(path, _read_torch_zip(path)))
    if head.startswith(b"version https://"):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not a checkpoint; the download went wrong")
    if head.startswith((b"\x80", b"(")):
        _refuse_pickle(path)
    raise UserError(f"{path} is neither a safetensors file nor a torch checkpoint")


def _with_tensors(file: CheckpointFile) -> CheckpointFile:
    if not file.tensors:
        raise UserError(f"{file.path} holds no tensors")
    return file


def _read_safetensors(path: Path) -> CheckpointFile:
    try:
        with openable(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return CheckpointFile(path, tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or cut off: {error}") from error


def _read_torch_zip(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":  # torch.load goes by the name
        raise UserError(f"{path} is a torch checkpoint by its content; rename it to {path.with_suffix('.ckpt').name}")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            refused = refused_names(archive.read(pickles[0])) if len(pickles) == 1 else []
    except Exception as error:  # whatever a damaged file makes the zip and pickle libraries raise
        raise UserError(f"{path} is damaged or cut off: {error}") from error
    if len(pickles) != 1:
        raise UserError(f"{path} is a zip file, but no torch checkpoint")
    _raise_if_refused(path, refused)

    stand_ins: list[Any] = [(Inert, name) for name in KNOWN_INERT]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(), openable(path) as name:
            warnings.simplefilter("ignore", UserWarning)  # of unusual pickle protocols
            content = torch.load(name, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch's own words would recommend to switch its safety off
        raise UserError(
            f"{path} can't be read as a torch checkpoint: it is damaged, or pickled in an unusual way. "
            "Get it as safetensors, or save it again with torch.save's defaults"
        ) from error
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else {}
    items = state_dict.items() if isinstance(state_dict, dict) else ()
    return {str(key): value for key, value in items if isinstance(value, Tensor)}


def _refuse_pickle(path: Path) -> None:
    try:
        refused = refused_names(path.read_bytes())
    except Exception as error:  # whatever damaged bytes make the pickle library raise
        raise UserError(f"{path} is damaged or cut off: {error}") from error
    _raise_if_refused(path, refused)
    raise UserError(
        f"{path} is a bare pickle, not a torch checkpoint; save it again with torch >= 1.6 or as safetensors"
    )


def _raise_if_refused(path: Path, refused: list[str]) -> None:
    if refused:
        raise UserError(
            f"{path} was not opened: it is a pickle that asks to use {', '.join(refused)}, which could run code "
            "here. A checkpoint needs tensors only; get it as safetensors"
        )

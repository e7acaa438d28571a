"""Safetensors files, written whole, or the system's reason why not."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ldm.disk import write_error
from ldm.files import atomic_path, openable


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes contiguous tensors that are on the CPU, atomically. Raises `UserError` if that is not possible."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        with atomic_path(path, size) as partial, openable(partial.parent) as directory:
            save_file(dict(tensors), directory / partial.name, metadata=dict(metadata))
    except SafetensorError as error:  # such as a full disk
        raise write_error(path, error, size) from error

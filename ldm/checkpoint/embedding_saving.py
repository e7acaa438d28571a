"""Saves learned vectors as a file of a few kB with one tensor, which A1111, ComfyUI, kohya and diffusers read."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint.embedding import TOKEN_KEY, VECTORS
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.saving import raise_unless_finite, snapshot, write_safetensors


def embedding_writer(
    path: Path, vectors: Tensor, token: str, info: CheckpointInfo, dtype: torch.dtype, notes: Mapping[str, str]
) -> Callable[[], None]:
    """Copies the vectors (n d) as they are now; returns a function that writes the copy, atomically.

    `notes`: modelspec's metadata. The function raises `UserError` if a number is not finite in `dtype`.
    """
    metadata = {**info.to_metadata(), TOKEN_KEY: json.dumps(token), **notes}
    return partial(_save, path, {VECTORS: snapshot(vectors, dtype)}, metadata)


def _save(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    raise_unless_finite(path, tensors)
    write_safetensors(path, tensors, metadata)

"""Saves a model as a safetensors file in the official layout, with metadata that explain it, atomically."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm import choices
from ldm.background import raise_if_cancelled
from ldm.checkpoint.diffusers_directory import files_of
from ldm.checkpoint.keys import PARTS, POSITION_IDS
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.modelspec import modelspec
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.disk import write_error
from ldm.errors import UserError
from ldm.files import atomic_path, openable
from ldm.user_files import open_regular

SAVE_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, full) for name, full in choices.SAVE_DTYPES.items()}


def snapshot(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy on the CPU that shares no memory with the tensor."""
    original = tensor.detach()
    copy = original.to(dtype).to("cpu")  # in this order fewer bytes leave the device
    return copy.clone(memory_format=torch.contiguous_format) if copy is original else copy.contiguous()


def official_state_dict(model: LatentDiffusion, dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of all tensors of the official checkpoint, on the CPU: weights in `dtype`, schedule buffers in float32."""
    weights = {name: snapshot(tensor, dtype) for name, tensor in model.state_dict().items()}
    positions = torch.arange(model.config.text_encoder.max_position_embeddings)[None]
    return {**model.schedule.official_buffers(), **weights, POSITION_IDS: positions}


def checkpoint_writer(
    path: Path, model: LatentDiffusion, info: CheckpointInfo, dtype: torch.dtype
) -> Callable[[], None]:
    """Copies the weights as they are now; returns a function that writes the copy: a safetensors file, atomically.

    The file has the official layout. The function raises `UserError` if a weight is not finite in `dtype`.
    """
    return partial(save_checkpoint, path, official_state_dict(model, dtype), info, model.config)


def part_writer(
    path: Path, network: nn.Module, part: str, info: CheckpointInfo, dtype: torch.dtype
) -> Callable[[], None]:
    """As `checkpoint_writer`, for one of the `PARTS` alone, under its official keys."""
    tensors = {PARTS[part] + name: snapshot(tensor, dtype) for name, tensor in network.state_dict().items()}
    return partial(save_checkpoint, path, tensors, info)


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], info: CheckpointInfo, config: LatentDiffusionConfig | None = None
) -> None:
    """Writes contiguous tensors under official names, atomically, with metadata that have the digest of each part.

    `config`: the shape of a whole model. Raises `UserError` if a weight is not finite.
    """
    raise_unless_finite(path, tensors)
    present = [part for part, prefix in PARTS.items() if any(key.startswith(prefix) for key in tensors)]
    info = dataclasses.replace(info, parts={part: hash_part(tensors, part) for part in present})
    spec = modelspec(info, config, path.stem) if config else {}
    write_safetensors(path, tensors, {**info.to_metadata(), **spec})


def raise_unless_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises `UserError` for infinities and NaN, which no image survives."""
    for key, tensor in tensors.items():
        if not _is_finite(tensor):
            raise UserError(
                f"{path} was not written: {key} is not finite as {tensor.dtype}, which bf16 or fp32 may hold"
            )


def _is_finite(tensor: Tensor) -> bool:
    return bool((tensor.float() if tensor.dtype.itemsize == 1 else tensor).isfinite().all())


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes contiguous tensors on the CPU, atomically. Raises `UserError` with the system's reason if it can't."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        with atomic_path(path, size) as partial, openable(partial.parent) as directory:
            save_file(dict(tensors), directory / partial.name, metadata=dict(metadata))
    except SafetensorError as error:  # such as a full disk
        raise write_error(path, error, size) from error


def hash_part(tensors: Mapping[str, Tensor], part: str) -> str:
    """SHA-256 over the names, types, shapes and bytes of one part's tensors."""
    digest = hashlib.sha256()
    for key in sorted(key for key in tensors if key.startswith(PARTS[part])):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_weights(path: Path) -> str:
    """SHA-256 of a checkpoint: of its file, or of the names and the SHA-256 of a diffusers directory's files."""
    files = files_of(path)
    if files == [path]:
        return hash_file(path)
    lines = [f"{file.relative_to(path)} {hash_file(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file. Raises `UserError` for a named pipe, and `OSError`."""
    with open_regular(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 24):
            raise_if_cancelled()
            digest.update(block)
    return digest.hexdigest()

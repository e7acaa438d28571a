"""Saves adapters as a LoRA file in kohya's naming, which A1111, ComfyUI, kohya and diffusers read as it is."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ldm.checkpoint.lora_names import layers_of
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.saving import raise_unless_finite, snapshot, write_safetensors
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.nn.lora import adapted_layers

LEGACY_HASHED = slice(0x100000, 0x110000)
"""The bytes of a file that the older hash of A1111 covers."""


def lora_state_dict(ldm: LatentDiffusion, dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of all adapters on the CPU, by kohya's names."""
    names = {layer.key: layer.kohya for layer in layers_of(dict(ldm.named_parameters()))}
    tensors = {}
    for name, layer in adapted_layers(ldm):
        kohya = names[f"{name}.weight"]
        alpha = layer.lora_scale * len(layer.lora_down)
        tensors[f"{kohya}.lora_down.weight"] = snapshot(layer.lora_down, dtype)
        tensors[f"{kohya}.lora_up.weight"] = snapshot(layer.lora_up, dtype)
        tensors[f"{kohya}.alpha"] = torch.tensor(alpha, dtype=dtype)
        if layer.lora_magnitude is not None:  # (out 1) or (out 1 1 1), as LyCORIS and ComfyUI have it
            lengths = layer.lora_magnitude.reshape(-1, *[1] * (layer.weight.ndim - 1))
            tensors[f"{kohya}.dora_scale"] = snapshot(lengths, dtype)
    return tensors


def lora_writer(
    path: Path, ldm: LatentDiffusion, info: CheckpointInfo, dtype: torch.dtype, notes: Mapping[str, str]
) -> Callable[[], None]:
    """Copies the adapters as they are now; returns a function that writes the copy as a LoRA file, atomically.

    `notes`: kohya's metadata and modelspec's. The function raises `UserError` if a weight is not finite in `dtype`.
    """
    return partial(_save, path, lora_state_dict(ldm, dtype), info, notes)


def _save(path: Path, tensors: dict[str, Tensor], info: CheckpointInfo, notes: Mapping[str, str]) -> None:
    raise_unless_finite(path, tensors)
    notes = {**notes, "ss_steps": str(info.step), "ss_output_name": f"{notes['ss_output_name']}-{info.step:05d}"}
    kohya = {name: text for name, text in notes.items() if name.startswith("ss_")}
    content = save(tensors, metadata=kohya)  # kohya's hashes are those of a file with its own metadata only
    data_hash = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    hashes = {
        "sshs_model_hash": data_hash,
        "sshs_legacy_hash": hashlib.sha256(content[LEGACY_HASHED]).hexdigest()[:8],
        **({"modelspec.hash_sha256": f"0x{data_hash}"} if "modelspec.architecture" in notes else {}),
    }
    write_safetensors(path, tensors, {**info.to_metadata(), **notes, **hashes})

"""LoRA files of random numbers for tests, in kohya's naming."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from ldm.checkpoint.lora_names import layers_of
from ldm.checkpoint.reading import read_checkpoint


def write_lora(path: Path, base: Path, seed: int = 0, rank: int = 2, std: float = 0.3, **metadata: str) -> Path:
    """A LoRA of all attention layers of a base model."""
    index = read_checkpoint(base).index
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers_of(index):
        if not any(part in layer.diffusers for part in ("to_q", "to_v", "q_proj")):
            continue
        out, inputs = index[layer.key].shape[:2]
        tensors[f"{layer.kohya}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator) * std
        tensors[f"{layer.kohya}.lora_up.weight"] = torch.randn(out, rank, generator=generator) * std
        tensors[f"{layer.kohya}.alpha"] = torch.tensor(float(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path

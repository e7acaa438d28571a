"""LoRA files of random numbers for tests, and what other programs look at in a LoRA file."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from ldm.checkpoint.lora_names import layers_of
from ldm.checkpoint.reading import read_checkpoint

INSIDE = r"transformer_blocks_\d+_(attn[12]_to_(q|k|v|out_0)|ff_net_(0_proj|2))|proj_in|proj_out"
PLACES = re.compile(
    rf"lora_unet_((down|up)_blocks_\d_attentions_\d|mid_block_attentions_0)_({INSIDE})"
    r"|lora_unet_((down|up)_blocks_\d|mid_block)_resnets_\d_(conv1|conv2|time_emb_proj|conv_shortcut)"
    r"|lora_unet_(down_blocks_\d_down|up_blocks_\d_up)samplers_0_conv"
    r"|lora_te_text_model_encoder_layers_\d+_(self_attn_(q|k|v|out)_proj|mlp_fc[12])"
)
"""The modules in kohya's naming for which A1111, ComfyUI and diffusers have a place in Stable Diffusion v1."""


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


def assert_read_everywhere(keys: Iterable[str]) -> set[str]:
    """The rules of A1111, ComfyUI and diffusers for the keys of a LoRA file; returns its modules.

    A1111 takes a key to its first dot, and needs down and up; ComfyUI has a table of modules; diffusers wants one of
    two beginnings for all keys.
    """
    modules: dict[str, set[str]] = {}
    for key in keys:
        module, _, ending = key.partition(".")
        modules.setdefault(module, set()).add(ending)
    assert modules and all(PLACES.fullmatch(module) for module in modules)
    for endings in modules.values():
        assert {"lora_down.weight", "lora_up.weight", "alpha"} <= endings
        assert endings <= {"lora_down.weight", "lora_up.weight", "alpha", "lora_mid.weight", "dora_scale"}
    assert all(re.match(r"lora_(unet|te)_", module) for module in modules)
    return set(modules)

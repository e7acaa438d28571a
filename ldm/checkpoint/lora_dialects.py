"""Changes of weights under the names of a LoRA dialect: kohya's, which every program reads, PEFT's or diffusers'."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint.lora import LowRank
from ldm.checkpoint.lora_names import Layer
from ldm.errors import UserError

KOHYA = "kohya"


def lora_tensors(
    path: Path,
    changes: Mapping[str, LowRank],
    layers: Mapping[str, Layer],
    shapes: Mapping[str, torch.Size],
    dialect: str,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """The tensors of a LoRA file. `changes`, `layers` and the `shapes` of the changed weights by official key.

    `dtype`: by default that of each matrix.

    In kohya's naming each layer has its alpha. The others have no place for one that all programs read: there the
    scale is multiplied into the matrices, without rounding if it is a power of two. Raises `UserError`, which names
    `path`, for a DoRA that only kohya's naming can hold.
    """
    tensors: dict[str, Tensor] = {}
    for key, stored in changes.items():
        layer, change = layers[key], _shaped(stored, shapes[key])
        tensors |= _kohya(layer, change, dtype) if dialect == KOHYA else _named(path, layer, change, dialect, dtype)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _shaped(change: LowRank, shape: torch.Size) -> LowRank:
    """Matrices (out r) and (r in) of a linear layer, (out r 1 1) and (r in k k) of a convolution."""
    kernel, ones = shape[2:], [1] * (len(shape) - 2)
    inside = kernel if change.mid is None else ones
    return replace(
        change,
        up=change.up.reshape(shape[0], -1, *ones),
        down=change.down.reshape(change.down.shape[0], -1, *inside),
    )


def _kohya(layer: Layer, change: LowRank, dtype: torch.dtype | None) -> dict[str, Tensor]:
    dtype = dtype or change.up.dtype
    rank = change.down.shape[0]
    alpha = torch.tensor(change.scale * rank, dtype=torch.float32)
    small = alpha.to(dtype)
    tensors = {
        "lora_down.weight": change.down.to(dtype),
        "lora_up.weight": change.up.to(dtype),
        "alpha": small if small.float() == alpha else alpha,
    }
    if change.mid is not None:
        tensors["lora_mid.weight"] = change.mid.to(dtype)
    if (lengths := change.magnitude) is not None:
        of_outputs, ones = lengths.ndim == 1, [1] * (change.down.ndim - 1)
        shape = (-1, *ones) if of_outputs else (1, -1, *ones[1:])
        tensors["dora_scale"] = lengths.reshape(shape).to(dtype)
    return {f"{layer.kohya}.{name}": tensor for name, tensor in tensors.items()}


def _named(path: Path, layer: Layer, change: LowRank, dialect: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    prefix = f"text_encoder.{layer.diffusers}" if layer.is_text else f"unet.{layer.diffusers}"
    if dialect == "peft":
        down_name, up_name = "lora_A", "lora_B"
    else:
        down_name, up_name = (
            ("lora_linear_layer.down", "lora_linear_layer.up") if layer.is_text else ("lora.down", "lora.up")
        )
    dtype = dtype or change.up.dtype
    down, up = _scaled(change)
    tensors = {f"{prefix}.{down_name}.weight": down.to(dtype), f"{prefix}.{up_name}.weight": up.to(dtype)}
    if (lengths := change.magnitude) is not None:
        if lengths.ndim != 1:
            raise UserError(
                f"{path}: {layer.kohya} is a DoRA by inputs, which {dialect}'s naming can't hold: leave --dialect out"
            )
        shape = (1, -1, 1, 1) if down.ndim == 4 else (-1,)
        tensors[f"{prefix}.lora_magnitude_vector"] = lengths.reshape(shape).to(dtype)
    return tensors


def _scaled(change: LowRank) -> tuple[Tensor, Tensor]:
    """`down` and `up` whose product needs no scale; a middle layer becomes part of `down`.

    Each gets about the root of the scale: one alone might become too small for half precision.
    """
    down, up = change.down.float(), change.up.float()
    if change.mid is not None:
        down = torch.einsum("rskl,si->rikl", change.mid.float(), down.flatten(1))
    if change.scale == 1.0:
        return down, up
    root = 2.0 ** round(math.log2(abs(change.scale)) / 2) if change.scale else 1.0
    return down * root, up * (change.scale / root)

"""The names that programs give the layers of Stable Diffusion v1 in LoRA files: kohya's, PEFT's, diffusers', originals.

diffusers numbers the UNet's blocks by level, the official layout throughout. Which block is in which level follows from
the names alone, so this holds for every size of the model.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ldm.checkpoint.keys import PARTS, TEXT_TRANSFORMER

UNET = PARTS["unet"]
WEIGHT = ".weight"
SHORT_TEXT = "text_model."
"""What newer versions of transformers leave out of the text encoder's names."""

IN_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block: the official name and diffusers'."""
OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


@dataclass(frozen=True)
class Layer:
    """A layer of the UNet or of the text encoder."""

    key: str
    """The official name of its weight."""
    diffusers: str
    """Its path in diffusers' UNet or in transformers' text encoder."""

    @property
    def is_text(self) -> bool:
        """Whether it belongs to the text encoder."""
        return not self.key.startswith(UNET)

    @property
    def kohya(self) -> str:
        """Its name in kohya's files."""
        return f"lora_{'te' if self.is_text else 'unet'}_{self.diffusers.replace('.', '_')}"

    def names(self) -> Iterator[str]:
        """Every name that it has in a LoRA file, without the ending that says which tensor it is.

        `lora_te1_` is Stable Diffusion XL's first text encoder, and diffusers' converter writes it for any model.
        """
        yield from (self.diffusers, f"base_model.model.{self.diffusers}")
        if self.is_text:
            short = self.diffusers.removeprefix(SHORT_TEXT)
            yield from (f"text_encoder.{self.diffusers}", f"text_encoder.{short}", f"base_model.model.{short}")
            for path in (self.diffusers, short):
                yield from (f"lora_te_{path.replace('.', '_')}", f"lora_te1_{path.replace('.', '_')}")
            yield self.key.removesuffix(WEIGHT)
            yield f"text_encoders.clip_l.transformer.{self.diffusers}"
        else:
            original = self.key.removeprefix(UNET).removesuffix(WEIGHT)
            yield from (self.kohya, f"unet.{self.diffusers}", f"lora_unet_{original.replace('.', '_')}")
            yield from (f"diffusion_model.{original}", f"{UNET}{original}")


def layers_of(index: Mapping[str, Tensor]) -> list[Layer]:
    """The linear and convolutional layers of the UNet and the text encoder of a whole model, by its official names."""
    keys = [key for key in index if key.endswith(WEIGHT) and index[key].ndim in (2, 4)]
    blocks = _diffusers_blocks([key.removeprefix(UNET) for key in keys if key.startswith(UNET)])
    layers = []
    for key in keys:
        if key.startswith(UNET):
            layers.append(Layer(key, _diffusers_path(key.removeprefix(UNET).removesuffix(WEIGHT), blocks)))
        elif key.startswith(TEXT_TRANSFORMER) and ".encoder.layers." in key:
            layers.append(Layer(key, key.removeprefix(TEXT_TRANSFORMER).removesuffix(WEIGHT)))
    return layers


def _diffusers_path(original: str, blocks: Mapping[str, str]) -> str:
    if original in OUTSIDE:
        return OUTSIDE[original]
    for block, name in blocks.items():
        if original == block:
            return name
        if original.startswith(f"{block}."):
            rest = original.removeprefix(f"{block}.")
            return f"{name}.{IN_BLOCK.get(rest, rest)}"
    return original


def _diffusers_blocks(keys: list[str]) -> dict[str, str]:
    """diffusers' names of the UNet's residual blocks, transformers and resampling convolutions, by official name."""
    names = {
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
    }
    for group, side in (("input_blocks", "down_blocks"), ("output_blocks", "up_blocks")):
        level = place = 0
        for number in _numbers(keys, rf"{group}\.(\d+)\."):
            if (group, number) == ("input_blocks", 0):  # the first convolution
                continue
            block = f"{group}.{number}"
            parts = {part: _kind([key for key in keys if key.startswith(f"{block}.{part}.")])
                     for part in _numbers(keys, rf"{re.escape(block)}\.(\d+)\.")}  # fmt: skip
            for part, kind in parts.items():
                index = 0 if kind in RESAMPLING else place
                names[f"{block}.{part}{RESAMPLING.get(kind, '')}"] = f"{side}.{level}.{kind}.{index}" + (
                    ".conv" if kind in RESAMPLING else ""
                )
            place += 1
            if RESAMPLING.keys() & {*parts.values()}:
                level, place = level + 1, 0
    return names


RESAMPLING = {"downsamplers": ".op", "upsamplers": ".conv"}
"""The layers that end a level, and where their convolution is in the official layout."""


def _kind(keys: list[str]) -> str:
    if any(".proj_in." in key for key in keys):
        return "attentions"
    if any(".in_layers." in key for key in keys):
        return "resnets"
    return "downsamplers" if any(".op." in key for key in keys) else "upsamplers"


def _numbers(keys: list[str], pattern: str) -> list[int]:
    return sorted({int(match[1]) for key in keys if (match := re.match(pattern, key))})

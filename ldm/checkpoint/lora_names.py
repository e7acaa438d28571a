"""The names that programs give the layers of Stable Diffusion v1 in LoRA files: kohya's, PEFT's, diffusers', originals.

Where diffusers' blocks are follows from the official names alone, so this holds for every size of the model.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ldm.checkpoint.diffusers_names import unet_name
from ldm.checkpoint.keys import PARTS, TEXT_TRANSFORMER

UNET = PARTS["unet"]
WEIGHT = ".weight"
SHORT_TEXT = "text_model."
"""What newer versions of transformers leave out of the text encoder's names."""

BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
"""What the names of the layers in diffusers' UNet begin with, but those of its first and last ones."""
INPUT_BLOCK = re.compile(re.escape(UNET) + r"input_blocks\.(\d+)\.\d+\.([a-z_]+)")
"""The number of a block on the UNet's way down, and the first word of a layer's name in it."""


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

    @property
    def is_common(self) -> bool:
        """Whether all programs find it by kohya's name; diffusers doesn't find the UNet's first and last layers."""
        return self.is_text or self.diffusers.startswith(BLOCKS)

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
    res_blocks = _res_blocks(keys)
    layers = []
    for key in keys:
        if key.startswith(UNET):
            layers.append(Layer(key, unet_name(key.removeprefix(UNET), res_blocks).removesuffix(WEIGHT)))
        elif key.startswith(TEXT_TRANSFORMER) and ".encoder.layers." in key:
            layers.append(Layer(key, key.removeprefix(TEXT_TRANSFORMER).removesuffix(WEIGHT)))
    return layers


def _res_blocks(keys: list[str]) -> int:
    """How many residual blocks each level has: the first level ends with the first convolution that halves the size."""
    blocks = [(int(match[1]), match[2]) for key in keys if (match := INPUT_BLOCK.match(key))]
    ends = [number for number, leaf in blocks if leaf == "op"]
    return min(ends) - 1 if ends else max((number for number, _ in blocks), default=0)

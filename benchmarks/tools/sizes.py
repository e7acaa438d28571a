"""Models to measure with: Stable Diffusion v1's topology at three sizes, random weights, and their file.

A network with random weights takes as long as a trained one, and nothing has to be downloaded.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ldm.config import build_config, read_yaml
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.files import ROOT
from ldm.nn.tokenizer import load_tokenizer
from ldm.runtime.models import DEFAULT_CONFIG, Settings

TOKENIZER = "ldm/assets/tokenizer"
"""Of all sizes: with random weights one id is as good as another, and all of its 768 fit every vocabulary."""
MAX_LENGTH = 77

TINY: dict[str, Any] = {
    "unet": {"model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [1], "num_res_blocks": 1,
             "num_heads": 4, "context_dim": 32},
    "autoencoder": {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "text_encoder": {"vocab_size": 768, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                     "num_attention_heads": 4},
}  # fmt: skip
REDUCED: dict[str, Any] = {
    "unet": {"model_channels": 96, "context_dim": 192},
    "autoencoder": {"ch": 64},
    "text_encoder": {"vocab_size": 768, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4,
                     "num_attention_heads": 4},
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A model's shape, and the size of its images."""

    name: str
    model: dict[str, Any]
    """The differences from Stable Diffusion v1."""
    pixels: int
    """On a side."""

    @property
    def yaml(self) -> dict[str, Any]:
        """The model's whole YAML: Stable Diffusion v1's defaults for sampling and fine-tuning, at this size."""
        values = read_yaml(DEFAULT_CONFIG)
        size = {"height": self.pixels, "width": self.pixels}
        return {
            **values,
            "tokenizer": TOKENIZER,
            "model": {part: {**values["model"][part], **self.model.get(part, {})} if part in self.model else value
                      for part, value in values["model"].items()},
            "sampling": {**values["sampling"], **size},
        }  # fmt: skip

    @property
    def settings(self) -> Settings:
        """The same, typed."""
        return build_config(Settings, self.yaml, self.name)


SIZES = {size.name: size for size in (Size("tiny", TINY, 32), Size("reduced", REDUCED, 256), Size("full", {}, 512))}


def build_random(size: Size, seed: int = 0) -> LatentDiffusion:
    """An untrained model in float32 on the CPU, with its tokenizer.

    No layer is all zero: it would hide the effect of the layers before it.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        ldm = LatentDiffusion(size.settings.model)
        for parameter in ldm.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    ldm.tokenizer = load_tokenizer(ROOT / TOKENIZER, MAX_LENGTH)
    return ldm.eval().requires_grad_(False)

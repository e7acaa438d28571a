"""Which layers of the UNet a fine-tuning changes (`--train-layers`)."""

import re

from torch import nn

from ldm.checkpoint.keys import PARTS
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from ldm.training.dreambooth_config import DreamBoothConfig

PATTERNS = {
    "all": r".*",
    "attention": r".*\.attn[12]\..*",
    "cross-attention": r".*\.attn2\..*",
    "cross-attention-kv": r".*\.attn2\.to_[kv]\..*",
}
"""Names of the UNet's weights by `ldm.choices.TRAIN_LAYERS`; the last is Custom Diffusion's choice (arXiv 2212.04488,
section 3.1)."""


def fix_other_layers(unet: nn.Module, layers: str) -> None:
    """Fixes all of the UNet's weights but those of `layers`."""
    for name, weight in unet.named_parameters():
        weight.requires_grad_(weight.requires_grad and re.fullmatch(PATTERNS[layers], name) is not None)


def count_unet_weights(model: LatentDiffusionConfig, config: DreamBoothConfig) -> int:
    """How many weights of the UNet are trained."""
    prefix, pattern = PARTS["unet"], PATTERNS[config.train_layers]
    return sum(
        shape.numel()
        for key, shape in shapes_of(model).items()
        if key.startswith(prefix) and re.fullmatch(pattern, key.removeprefix(prefix))
    )

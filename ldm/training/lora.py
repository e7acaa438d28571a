"""Which layers of a model a LoRA training adapts, and how many weights it trains."""

import re

import torch
from torch import nn

from ldm.checkpoint.keys import PARTS
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, shapes_of
from ldm.diffusion.noise import derived_generator
from ldm.nn.lora import Adapted, adapt, store_layers_in
from ldm.training.dreambooth_config import DreamBoothConfig

INITIALISATION = 0x10A4
"""Tells the generator of the adapters from those of the steps."""

UNET = {
    "attention": r".*\.attn[12]\.to_(q|k|v|out\.0)",
    "attention+ff": r".*\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
    "all": r".*\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out)",
}
UNET["all+conv"] = rf"{UNET['all']}|(in|out)put_blocks\.\d+\.\d\.(op|conv)|.*\.(in_layers\.2|out_layers\.3)"
"""Names of layers by `ldm.choices.LORA_TARGETS`."""
TEXT_ATTENTION = r".*\.self_attn\.(q|k|v|out)_proj"
TEXT = {name: TEXT_ATTENTION if name == "attention" else rf"{TEXT_ATTENTION}|.*\.mlp\.fc[12]" for name in UNET}


def patterns_of(config: DreamBoothConfig) -> dict[str, str]:
    """A pattern of the names of the adapted layers for each trained part."""
    text = {"text_encoder": TEXT[config.lora_targets]} if config.train_text_encoder else {}
    return {"unet": UNET[config.lora_targets], **text}


def add_adapters(ldm: LatentDiffusion, config: DreamBoothConfig, seed: int) -> list[Adapted]:
    """Gives the model the adapters of a config; how they begin is a function of the seed."""
    generator = derived_generator(seed, INITIALISATION)
    networks: dict[str, nn.Module] = {"unet": ldm.unet, "text_encoder": ldm.text_encoder}
    alpha = config.lora_alpha or float(config.lora)
    layers = []
    for part, pattern in patterns_of(config).items():
        layers += adapt(networks[part], pattern, config.lora, alpha, generator, config.dora)
    return layers


def store_frozen_in(ldm: LatentDiffusion, config: DreamBoothConfig, dtype: torch.dtype) -> None:
    """Stores the fixed networks that steps compute with in the type of autocast, which halves their memory."""
    store_layers_in(ldm.unet, dtype)
    if config.encodes_in_steps:
        store_layers_in(ldm.text_encoder, dtype)


def count_adapter_weights(model: LatentDiffusionConfig, config: DreamBoothConfig) -> int:
    """How many weights the adapters of a config have."""
    count = 0
    for part, pattern in patterns_of(config).items():
        prefix = PARTS[part]
        for key, shape in shapes_of(model).items():
            name = key.removeprefix(prefix).removesuffix(".weight")
            if key.startswith(prefix) and key.endswith(".weight") and re.fullmatch(pattern, name):
                count += config.lora * (shape[0] + shape.numel() // shape[0]) + shape[0] * config.dora
    return count

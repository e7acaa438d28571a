"""A whole model of random weights that samples and trains within a second: the same code at another size."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.saving import checkpoint_writer
from ldm.config import build_config
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.nn.memory import weightless

TINY_YAML: dict[str, Any] = {
    "tokenizer": "weights/tiny/tokenizer",  # not there: the one beside the checkpoint is used
    "model": {
        "unet": {
            "model_channels": 32,
            "channel_mult": [1, 2],
            "attention_resolutions": [1, 2],
            "num_res_blocks": 1,
            "num_heads": 4,
            "context_dim": 32,
        },
        "autoencoder": {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        "text_encoder": {
            "vocab_size": 514,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    },
    "sampling": {"height": 32, "width": 32, "num_steps": 3, "prompt": "a photo of a cat"},
    "dreambooth": {
        "iterations": 6,
        "save_every": 3,
        "class_img_count": 4,
        "class_sampler": "ddim",
        "class_steps": 3,
        "learning_rate": 1e-3,
    },
}
"""What a model's YAML holds. It is shared: don't write to it."""


def tiny_config() -> LatentDiffusionConfig:
    """The shape of the tiny model: images of 32 x 32 have latents (4 4 4), a prompt is 77 x 32."""
    return build_config(LatentDiffusionConfig, TINY_YAML["model"], "tiny")


PROMPT_GAIN = 6.0
"""Random weights hardly depend on the prompt: another word moves an image by a grey level or two, which rounding on
another CPU could hide. With attention to the prompt this much stronger it moves by thirty."""


def build_tiny_model(seed: int = 0) -> LatentDiffusion:
    """The tiny model without a tokenizer, which samples another image for another prompt.

    No parameter is zero throughout, so that gradients reach all of them.
    """
    with weightless():
        model = LatentDiffusion(tiny_config())
    with torch.inference_mode(False):
        model.load_state_dict({name: tensor.clone() for name, tensor in _weights(seed).items()}, assign=True)
    return model


@lru_cache(maxsize=8)
def _weights(seed: int) -> dict[str, torch.Tensor]:
    """Made once: hundreds of tests build this model."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(seed)
        model = LatentDiffusion(tiny_config())
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        with torch.no_grad():
            for name, parameter in model.unet.named_parameters():
                if name.endswith(("attn2.to_q.weight", "attn2.to_v.weight")):
                    parameter.mul_(PROMPT_GAIN)
        return model.state_dict()


def write_tokenizer(directory: Path) -> Path:
    """Writes a tokenizer of CLIP's kind that merges nothing: each byte is a token. 514 entries, as the tiny model's."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]  # as GPT-2 spells bytes
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return directory


def write_tiny_checkpoint(
    directory: Path,
    dtype: torch.dtype = torch.float32,
    *,
    name: str = "tiny.safetensors",
    model: LatentDiffusion | None = None,
    **info: Any,
) -> Path:
    """Writes the model with its YAML in the metadata and its tokenizer beside it: commands need nothing else.

    `info` are further fields of `CheckpointInfo`.
    """
    write_tokenizer(directory / "tokenizer")
    info = {"config": TINY_YAML, **info}
    checkpoint_writer(directory / name, model or build_tiny_model(), CheckpointInfo(**info), dtype)()
    return directory / name

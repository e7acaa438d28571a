"""What training from scratch starts with, at the smallest size: a YAML and a folder of captioned images."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from ldm.config import build_config, to_yaml
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig

SCRATCH_YAML: dict[str, Any] = {
    "model": {
        "scale_factor": 1.0,
        "unet": {
            "model_channels": 8,
            "attention_resolutions": [2],
            "num_res_blocks": 1,
            "channel_mult": [1, 2],
            "num_heads": 2,
            "context_dim": 16,
            "num_groups": 4,
        },
        "autoencoder": {"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "num_groups": 2},
        "text_encoder": {
            "vocab_size": 524,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 40,
        },
    },
    "sampling": {"height": 16, "width": 16, "num_steps": 2, "prompt": "a red disc"},
    "autoencoder_training": {
        "size": 16,
        "iterations": 6,
        "save_every": 3,
        "learning_rate": 2e-3,
        "lr_schedule": "cooldown",
        "batch_size": 3,
        "edge_weight": 0.5,
        "teacher_iterations": 2,
        "ema_decay": 0.5,
    },
    "diffusion_training": {
        "size": 16,
        "iterations": 6,
        "save_every": 3,
        "learning_rate": 2e-3,
        "lr_schedule": "cosine",
        "warmup_steps": 2,
        "batch_size": 4,
        "caption_dropout": 0.25,
        "min_snr_gamma": 5.0,
        "ema_decay": 0.5,
        "sample_prompts": ["a red disc", "a blue disc"],
    },
}
"""Images of 16 x 16 have latents (4 8 8). It is shared: don't write to it."""

COLOURS = {"red": (220, 30, 30), "green": (40, 180, 60), "blue": (40, 60, 220)}


def write_yaml(path: Path, tokenizer: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Writes the YAML; `changes` by section, such as {"autoencoder_training": {"size": 32}}."""
    values = {"tokenizer": str(tokenizer), **copy.deepcopy(SCRATCH_YAML)}
    for section, keys in (changes or {}).items():
        place = values
        for name in section.split("."):
            place = place[name]
        place.update(keys)
    path.write_text(to_yaml(values), encoding="utf-8")
    return path


def write_captioned(directory: Path, count: int = 12) -> Path:
    """Images of a disc with two captions each in a metadata.jsonl; no two are alike, and none is symmetric."""
    directory.mkdir(parents=True)
    rows = []
    for index in range(count):
        colour = list(COLOURS)[index % len(COLOURS)]
        image = Image.new("RGB", (20, 16 + index % 3), (200, 200 - 10 * index, 90 + 10 * index))
        ImageDraw.Draw(image).ellipse((1 + index % 5, 3, 8 + index % 7, 12), fill=COLOURS[colour])
        image.save(directory / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": [f"a {colour} disc", f"a photo of a {colour} disc"]})
    (directory / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def build_scratch_model(seed: int = 0) -> LatentDiffusion:
    """The YAML's model without a tokenizer, with torch's random initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentDiffusion(build_config(LatentDiffusionConfig, SCRATCH_YAML["model"], "scratch"))

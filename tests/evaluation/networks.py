"""Small DINO and CLIP networks with random weights, in folders with the Hugging Face Hub's layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel
from transformers.utils import logging

from ldm.evaluation.clip_dino import CLIP, DINO
from tests.oracle import TOKENIZER

CLIP_TOKENIZER = TOKENIZER
SIZE = 32
"""Pixels on a side of both networks' images."""

IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPENAI: dict[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
DINO_PREPROCESSING: dict[str, Any] = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    **IMAGENET,
    "resample": 3,
    "size": SIZE,
}
CLIP_PREPROCESSING: dict[str, Any] = {
    "crop_size": SIZE,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    **OPENAI,
    "resample": 3,
    "size": SIZE,
}
"""Those of the two repositories, with another size."""


def write_networks(directory: Path) -> Path:
    """`dino-vits16/` and `clip-vit-base-patch32/` below `directory`, with random weights."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": SIZE, "patch_size": 16}
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(5)
        dino = ViTModel(ViTConfig(**shape, **vision), add_pooling_layer=False)
        # As in CLIP's config.json, the end of text has the number 2, which is not its number in the vocabulary.
        text = {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 2, **shape}
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config={**shape, **vision}, projection_dim=8))
        for network in (dino, clip):
            for parameter in network.parameters():  # the initial ones are so small that images hardly differ
                parameter.data += 0.2 * torch.randn_like(parameter)
    logging.disable_progress_bar()
    dino.save_pretrained(directory / DINO)
    clip.save_pretrained(directory / CLIP)
    logging.enable_progress_bar()
    (directory / DINO / "preprocessor_config.json").write_text(json.dumps(DINO_PREPROCESSING))
    (directory / CLIP / "preprocessor_config.json").write_text(json.dumps(CLIP_PREPROCESSING))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(CLIP_TOKENIZER / name, directory / CLIP / name)
    return directory

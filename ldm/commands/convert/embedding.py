"""Converts a textual inversion's file between the layouts that other programs write."""

import argparse
import json
import logging
from dataclasses import replace

import torch
from torch import Tensor

from ldm.checkpoint.embedding import TOKEN_KEY, VECTORS, read_embedding
from ldm.checkpoint.learned_words import Embedding
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import snapshot, write_safetensors
from ldm.checkpoint.torch_zip import LEARNED
from ldm.commands.disk_space import refuse_unwritable
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.files import atomic_path, counted

log = logging.getLogger(__name__)

A1111 = ".pt"
LAYOUTS = {".safetensors": "one tensor, which all programs read", A1111: "A1111's", ".bin": "diffusers'"}
"""What is written, by the suffix of OUT."""
OF_MODELS, OF_LORA = ("ema", "vae", "variant", "merge", "config"), ("base", "rank", "keep", "dialect")


def convert_embedding(options: argparse.Namespace) -> None:
    """Writes the embedding `options.source` to `options.target`."""
    suffix = options.target.suffix.lower()
    if options.to not in (None, "embedding"):
        raise UserError(f"{options.source} is an embedding, not a model: --to embedding writes another layout of it")
    if suffix not in LAYOUTS:
        raise UserError(f"--to embedding writes one file: name OUT with {', '.join(LAYOUTS)}, not {options.target}")
    if given := [name for name in (*OF_MODELS, *OF_LORA) if getattr(options, name)]:
        kind = "whole models" if given[0] in OF_MODELS else "LoRA files"
        raise UserError(f"--{given[0]} is for {kind}, not for an embedding")
    named = options.target.stem if suffix == A1111 else ""
    if options.token and named not in ("", options.token):
        raise UserError(f"--token: the word of A1111's layout is the file's name; name OUT {options.token}{suffix}")
    file = read_checkpoint(options.source)
    embedding = read_embedding(file, options.token or "")
    count, width = embedding.vectors.shape
    dtype = torch.float16 if options.half else embedding.vectors.dtype
    kind = str(embedding.vectors.dtype).removeprefix("torch.")
    log.info("%s: an embedding, %s of %d numbers, %s", options.source, counted(count, "vector"), width, kind)
    refuse_unwritable(options.target.parent)
    vectors = snapshot(embedding.vectors, dtype)
    if suffix == ".safetensors":
        key = options.token or VECTORS
        write_safetensors(options.target, {key: vectors}, _metadata(file, embedding))
    else:
        content = {embedding.token: vectors} if suffix == ".bin" else _a1111(file, embedding, vectors)
        with atomic_path(options.target) as partial:
            torch.save(content, partial)
    size = human_size(options.target.stat().st_size)
    log.info("wrote %s: %s, %s; its word is '%s'", options.target, LAYOUTS[suffix], size, named or embedding.token)


def _metadata(file: CheckpointFile, embedding: Embedding) -> dict[str, str]:
    """Those of the file, with the word."""
    info = replace(checkpoint_info(file), parts={})
    return {**file.metadata, **info.to_metadata(), TOKEN_KEY: json.dumps(embedding.token)}


def _a1111(file: CheckpointFile, embedding: Embedding, vectors: Tensor) -> dict[str, object]:
    """What A1111's own training writes; 265 is CLIP's token of "*"."""
    return {
        "string_to_token": {"*": 265},
        LEARNED: {"*": vectors},
        "name": embedding.token,
        "step": checkpoint_info(file).step,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }

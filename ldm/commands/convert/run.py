"""Converts a checkpoint: everything is checked before anything is written."""

import argparse
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint.diffusers_writing import write_diffusers_directory
from ldm.checkpoint.embedding import is_embedding
from ldm.checkpoint.keys import POSITION_IDS, averaged
from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.lora import is_lora
from ldm.checkpoint.metadata import PREFIX, CheckpointInfo
from ldm.checkpoint.reading import SUFFIXES, CheckpointFile, read_checkpoint
from ldm.checkpoint.replacing import find_autoencoder, with_autoencoder
from ldm.checkpoint.saving import raise_unless_finite, save_checkpoint, snapshot
from ldm.commands.convert.description import describe
from ldm.commands.convert.embedding import convert_embedding
from ldm.commands.disk_space import refuse_unwritable, refuse_without_space_for_weights
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from ldm.diffusion.schedule import NoiseSchedule
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.nn.tokenizer import copy_tokenizer, tokenizer_digest, tokenizer_files
from ldm.runtime.models import Settings, settings_of
from ldm.runtime.tokenizers import ELSEWHERE, find_tokenizer, tokenizer_beside, with_digest
from ldm.terminal import Lines, command_line
from ldm.user_files import resolved

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Conversion:
    """What is converted, and how."""

    file: CheckpointFile
    values: dict[str, Any]
    """The model's YAML."""
    settings: Settings
    tokenizer: Path
    layout: str
    target: Path
    half: bool
    variant: str

    @property
    def model(self) -> LatentDiffusionConfig:
        """The shape of the networks."""
        return self.settings.model

    @property
    def info(self) -> CheckpointInfo:
        """The metadata to write."""
        digest = tokenizer_digest(self.tokenizer)
        return replace(checkpoint_info(self.file), config=self.values, tokenizer=digest, parts={})

    def stored(self, key: str) -> torch.dtype:
        """The type in which a weight is written."""
        return torch.float16 if self.half else self.file.index[key].dtype


def convert(options: argparse.Namespace) -> None:
    """Writes the checkpoint `options.source` to `options.target`."""
    if options.to == "embedding" or is_embedding(read_checkpoint(options.source)):
        _refuse_target(options.source, options.target, "embedding")
        convert_embedding(options)
        return
    if options.token:
        raise UserError(f"--token is for an embedding, and {options.source} is none")
    layout = _layout(options)
    _refuse_target(options.source, options.target, layout)
    file = read_checkpoint(options.source)
    if is_lora(file):
        raise UserError(f"{options.source} is a LoRA file, not a model; other programs read it as it is (docs/lora.md)")
    values, settings = settings_of(file, options.config)
    log.info("%s", Lines(describe(file, settings.model)))
    if options.ema:
        file = _with_averaged(file)
    file = with_autoencoder(file, find_autoencoder(options.vae) if options.vae else None, settings.model)
    raise_unless_whole(file, settings.model)
    tokenizer = find_tokenizer(options.source, settings.tokenizer, checkpoint_info(file).tokenizer)
    conversion = Conversion(
        file,
        values,
        settings,
        tokenizer,
        layout,
        options.target,
        options.half or options.variant == "fp16",
        options.variant or "",
    )
    keys = shapes_of(settings.model)
    size = sum(file.index[key].numel() * conversion.stored(key).itemsize for key in keys)
    refuse_unwritable(options.target.parent)
    refuse_without_space_for_weights(options.target, size)
    if layout == "official":
        _write_file(conversion)
    else:
        _write_directory(conversion)
    written = "one file" if layout == "official" else "a diffusers directory"
    log.info("wrote %s: %s, %s", options.target, written, human_size(size))
    log.info("%s", Lines(["to sample with it:", f"  {command_line('txt2img.py', '--ckpt-path', options.target)}"]))


def _layout(options: argparse.Namespace) -> str:
    """The layout to write. Raises `UserError` if flags or the name of the target contradict it."""
    is_file = options.target.suffix.lower() == SUFFIX
    layout = options.to or ("official" if is_file else "diffusers")
    if layout == "official" and not is_file:
        raise UserError(f"--to official writes one file: name OUT with {SUFFIX}, not {options.target}")
    if layout == "diffusers" and not is_file and options.target.suffix.lower() in SUFFIXES:
        raise UserError(f"{options.target}: one file is written as {SUFFIX}; a directory has another name")
    if layout == "diffusers" and is_file:
        raise UserError(f"--to diffusers writes a directory: name OUT without {SUFFIX}, not {options.target}")
    if options.variant and layout != "diffusers":
        raise UserError("--variant names the files of a diffusers directory; for one file use --half")
    return layout


def _refuse_target(source: Path, target: Path, layout: str) -> None:
    own, other = resolved(source), resolved(target)
    if own == other:
        raise UserError(f"OUT is IN itself, {target}: name another place")
    if os.path.lexists(target):
        raise UserError(f"{target} exists already: nothing is overwritten; name another place or remove it first")
    if source.is_dir() and other.is_relative_to(own):
        raise UserError(f"{target} is inside {source}: name another place")


def _with_averaged(file: CheckpointFile) -> CheckpointFile:
    """The file with its averaged UNet. The digest of the other in the metadata is dropped."""
    if not (tensors := averaged(file.tensors)):
        raise UserError(f"--ema: {file.path} has no averaged weights beside others; leave --ema out")
    info = checkpoint_info(file)
    parts = {part: digest for part, digest in info.parts.items() if part != "unet"}
    return replace(file, tensors=tensors, metadata={**file.metadata, **replace(info, parts=parts).to_metadata()})


def _weights(conversion: Conversion) -> dict[str, Tensor]:
    """A copy of all weights in the type to write."""
    tensors = conversion.file.tensors
    return {key: snapshot(tensors[key], conversion.stored(key)) for key in shapes_of(conversion.model)}


def _write_file(conversion: Conversion) -> None:
    stored, text = conversion.file.tensors, conversion.model.text_encoder
    buffers = NoiseSchedule(conversion.model.schedule).official_buffers()
    buffers[POSITION_IDS] = torch.arange(text.max_position_embeddings)[None]
    kept = {
        key: snapshot(stored[key], stored[key].dtype) if key in stored and stored[key].shape == own.shape else own
        for key, own in buffers.items()
    }
    beside = tokenizer_beside(conversion.target)
    known = with_digest([*ELSEWHERE, beside], conversion.info.tokenizer)
    if known is None and beside.exists():
        raise UserError(f"{beside} is another model's tokenizer: name a place for OUT without one beside it")
    save_checkpoint(conversion.target, {**kept, **_weights(conversion)}, conversion.info, conversion.model)
    if known is None:
        copy_tokenizer(conversion.tokenizer, beside)
        log.info("its tokenizer, which is not CLIP's, is beside it: %s", beside)


def _write_directory(conversion: Conversion) -> None:
    raise_unless_finite(conversion.target, weights := _weights(conversion))
    metadata = conversion.info.to_metadata()
    own: Mapping[str, str] = {key: text for key, text in metadata.items() if key != PREFIX + "parts"}
    write_diffusers_directory(
        conversion.target,
        weights,
        conversion.model,
        pixels=conversion.settings.sampling.height,
        tokenizer=tokenizer_files(conversion.tokenizer),
        metadata=own,
        variant=conversion.variant,
    )

"""What is checked before a training from scratch makes its directory: sizes, weights, tokenizer, memory, disk."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from ldm.checkpoint.keys import PARTS, UNET_INPUT
from ldm.checkpoint.loading import checkpoint_info, raise_unless_part
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES
from ldm.choices import OPTIMIZERS
from ldm.commands.disk_space import AVERAGE_BYTES, refuse_without_space
from ldm.commands.enough_memory import Need, refuse_too_large_training, training_need
from ldm.data.latents import moments_bytes
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, count_weights
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.nn.autoencoder import AutoencoderKL
from ldm.nn.memory import peak_bytes, weightless
from ldm.nn.tokenizer import load_tokenizer
from ldm.nn.unet import UNet
from ldm.runtime.models import Settings
from ldm.runtime.tokenizers import NAME, find_tokenizer, has_tokenizer
from ldm.toyworld.judge.data import Images
from ldm.training.config import DiffusionTrainingConfig, EditTrainingConfig, OptimizationConfig


def latents_dir(options: argparse.Namespace) -> Path:
    """Where encoded images are kept for all runs."""
    directory: Path = options.output_dir / "latents"
    return directory


def tokenizer_source(options: argparse.Namespace, settings: Settings) -> Path:
    """The run's own tokenizer if it is resumed, else that of the weights it starts from, else the YAML's."""
    own = own_tokenizer(options.resume_dir) if options.resume_dir else None
    return own or first_tokenizer(options, settings)


def own_tokenizer(run_dir: Path) -> Path | None:
    """A run's own tokenizer, if its files are there."""
    return own if has_tokenizer(own := run_dir / NAME) else None


def first_tokenizer(options: argparse.Namespace, settings: Settings) -> Path:
    """The tokenizer of the weights that a run starts from, else the YAML's."""
    if beside := options.ckpt_path or options.autoencoder:
        return find_tokenizer(beside, settings.tokenizer, checkpoint_info(read_checkpoint(beside)).tokenizer)
    return ROOT / settings.tokenizer


def refuse_impossible(
    options: argparse.Namespace,
    settings: Settings,
    config: OptimizationConfig,
    images: int,
    devices: list[torch.device],
) -> None:
    """Raises `UserError` unless a new run of this many images can be trained, and its files fit on the disk."""
    if options.stage == "judge":
        load_tokenizer(tokenizer_source(options, settings))
        Images([options.image_dir])
        return
    first = options.stage == "autoencoder"
    model, section = settings.model, f"{options.stage}_training"
    size: int = getattr(settings, section).size
    multiple = model.autoencoder.downsampling_factor if first else model.size_multiple
    if size % multiple:
        raise UserError(f"{options.config}: {section}.size should be a multiple of {multiple} pixels, not {size}")
    refuse_too_large_training(
        stage_need(settings, options.stage, size, config.batch_size),
        devices,
        f"{config.batch_size} images of {size} x {size} a step",
        f"A smaller --batch-size, or {section}.size in the YAML,",
    )
    _refuse_other_weights(options, settings)
    _refuse_without_space(options, settings, config, images)


def with_inputs_of(model: LatentDiffusionConfig, file: CheckpointFile) -> LatentDiffusionConfig:
    """A model of a run of the stage `edit` as the file that it starts from has it: with fewer input channels, or not.

    Raises `UserError` if the file has neither the channels of latents alone nor those of the model.
    """
    weight = file.index.get(UNET_INPUT)
    channels = weight.shape[1] if weight is not None and weight.ndim == 4 else model.autoencoder.embed_dim
    if channels not in (model.autoencoder.embed_dim, model.unet.in_channels):
        raise UserError(
            f"{file.path}: its UNet takes {channels} input channels; --ckpt-path should be a model that samples images "
            f"from prompts, with {model.autoencoder.embed_dim}, or one that edits, with {model.unet.in_channels}"
        )
    return replace(model, unet=replace(model.unet, in_channels=channels))


def stage_need(settings: Settings, stage: str, size: int, batch_size: int) -> Need:
    """The memory that a step on images of `size` pixels a side needs."""
    model, autoencoder, unet = settings.model, settings.model.autoencoder, settings.model.unet
    weights = count_weights(model, PARTS["autoencoder" if stage == "autoencoder" else "unet"])

    def autoencoder_step() -> None:
        network = AutoencoderKL(autoencoder)
        network.decode(network.encode(torch.zeros(batch_size, 3, size, size)).mean).sum().backward()

    def diffusion_step() -> None:
        latents = torch.zeros(batch_size, *model.latent_shape(size, size))
        context = torch.zeros(batch_size, model.text_encoder.max_position_embeddings, unet.context_dim)
        inputs = torch.zeros(batch_size, unet.in_channels, *latents.shape[2:])
        UNet(unet)(inputs, torch.zeros(batch_size), context).sum().backward()

    if stage == "autoencoder":
        return training_need(autoencoder, batch_size * size**2, weights, lambda: peak_bytes(autoencoder_step))
    latents = (size // autoencoder.downsampling_factor) ** 2
    return training_need(unet, batch_size * latents, weights, lambda: peak_bytes(diffusion_step))


def _refuse_other_weights(options: argparse.Namespace, settings: Settings) -> None:
    """Raises `UserError` unless the weights to start from, and the tokenizer, are of the model's shape."""
    first, model = options.stage == "autoencoder", settings.model
    start = options.ckpt_path and read_checkpoint(options.ckpt_path)
    with weightless():
        ldm = LatentDiffusion(with_inputs_of(model, start) if options.stage == "edit" else model)
    if start:
        for part in ("autoencoder",) if first else ("unet", "text_encoder"):
            raise_unless_part(getattr(ldm, part), part, start)
    if first:
        return
    raise_unless_part(ldm.autoencoder, "autoencoder", read_checkpoint(options.autoencoder or options.ckpt_path))
    source = tokenizer_source(options, settings)
    tokens, rows = len(load_tokenizer(source).clip_tokenizer), model.text_encoder.vocab_size
    if tokens != rows:
        raise UserError(f"the tokenizer in {source} has {tokens} tokens, but text_encoder.vocab_size is {rows}")


def _refuse_without_space(
    options: argparse.Namespace, settings: Settings, config: OptimizationConfig, images: int
) -> None:
    model, latents = settings.model, 0
    if options.stage == "autoencoder":
        saved = trained = count_weights(model, PARTS["autoencoder"])
    else:
        saved, trained = count_weights(model), count_weights(model, PARTS["unet"])
        stage: EditTrainingConfig | DiffusionTrainingConfig
        if options.stage == "edit":
            stage, images = settings.edit_training, 2 * images
        else:
            stage = settings.diffusion_training
            trained += count_weights(model, PARTS["text_encoder"]) * stage.train_text_encoder
        latents = moments_bytes(model.autoencoder, images, stage.size, stage.flip)
        if any(path.stat().st_size - latents in range(4096) for path in latents_dir(options).glob("*.npy")):
            latents = 0  # a file of this size is probably an earlier run's, of the same images
    state = OPTIMIZERS[config.optimizer].load().state_bytes_per_weight["fp32"] + AVERAGE_BYTES
    refuse_without_space(
        options.output_dir,
        config,
        checkpoint=saved * SAVE_DTYPES[options.save_dtype].itemsize,
        state=trained * state,
        extra_bytes=latents,
        extra_name="the encoded images",
    )

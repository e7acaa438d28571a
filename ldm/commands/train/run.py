"""A training from scratch before it begins: its directory, record and devices, new or continued."""

import argparse
import logging
import os
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ldm.checkpoint.loading import raise_unless_part
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, hash_file
from ldm.commands.app import begin_run
from ldm.commands.devices import parse_devices
from ldm.commands.disk_space import AVERAGE_BYTES, STATE_BYTES, refuse_without_space
from ldm.commands.models import Settings, settings_of, tokenizer_dir
from ldm.commands.placement import Compute, training_compute
from ldm.commands.record import plain, versions, write_record
from ldm.commands.resuming import (
    RECORD,
    RUN_DIR_VARIABLE,
    is_helper_process,
    make_run_dir,
    refuse_fewer_updates,
    resumed_options,
)
from ldm.config import build_config, read_yaml, to_yaml
from ldm.data.captioned import CaptionedImage, digest, find_captioned
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from ldm.files import ROOT, write_text
from ldm.interruption import finish_first
from ldm.nn.tokenizer import load_tokenizer
from ldm.processes import own_rank
from ldm.training.config import OptimizationConfig

log = logging.getLogger(__name__)

MAY_CHANGE = ("resume_dir", "devices", "compile", "logger", "iterations", "save_every", "workers", "precision")
"""Flags that a resumed run takes from the command line; the others are the run's own."""
OVERRIDES = ("iterations", "save_every", "learning_rate", "batch_size")
"""Flags that go before the values in the YAML."""
PATHS = ("image_dir", "config", "output_dir", "ckpt_path", "autoencoder")
WEIGHTS = ("ckpt_path", "autoencoder")
"""The paths of files that a run starts from."""

Config = TypeVar("Config", bound=OptimizationConfig)


@dataclass(frozen=True)
class TrainingRun:
    """Everything that is decided before anything is computed."""

    directory: Path
    options: argparse.Namespace
    yaml: dict[str, Any]
    settings: Settings
    devices: list[torch.device]
    compute: Compute
    images: list[CaptionedImage]

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.devices[own_rank() % len(self.devices)]

    def configured(self, config: Config) -> Config:
        """A training's config with the flags that were given."""
        return _configured(config, self.options)

    def info(self, step: int, yaml: dict[str, Any]) -> CheckpointInfo:
        """What a checkpoint of this run says of itself."""
        options = {k: v.name if isinstance(v, Path) else v for k, v in recorded_options(self.options).items()}
        return CheckpointInfo(
            config=yaml, step=step, seed=self.options.seed, options=plain(options), versions=versions()
        )

    def checkpoint_path(self, step: int) -> Path:
        """Where the weights of a step are written."""
        return self.directory / f"step-{step:06d}.safetensors"


def _configured(config: Config, options: argparse.Namespace) -> Config:
    given = {name: getattr(options, name) for name in OVERRIDES}
    known = {field.name for field in fields(config)}
    return replace(config, **{k: v for k, v in given.items() if v is not None and k in known})


def resumed_training_options(given: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `--resume-dir`."""
    typed = [name for name in given.typed if name != "stage"]
    options = resumed_options(
        argparse.Namespace(**vars(given) | {"typed": typed}),
        script="train.py",
        has="stage",
        may_change=MAY_CHANGE,
        paths=PATHS,
    )
    if options.stage != given.stage:
        raise UserError(
            f"{given.resume_dir} is a run of another stage: python train.py {options.stage} -r {given.resume_dir}"
        )
    begin_run(options.resume_dir, again(options.stage, options.resume_dir))
    return options


def again(stage: str, directory: Path) -> str:
    """The command that continues a run."""
    return f"python train.py {stage} -r {shlex.quote(str(directory))}"


def open_run(options: argparse.Namespace) -> TrainingRun:
    """Decides and checks everything that can be; then makes the run's directory, or finds the one to continue."""
    if options.image_dir is None:
        raise UserError("--image-dir is needed: a folder of pictures, with captions for all but the autoencoder")
    if options.stage == "diffusion" and not (options.autoencoder or options.ckpt_path):
        raise UserError("--autoencoder is needed: a checkpoint of `python train.py autoencoder`, or of a whole model")
    devices = parse_devices(options.devices)
    compute = training_compute(devices[0], options.precision)
    for name in PATHS:
        if (path := getattr(options, name)) is not None:
            setattr(options, name, path.resolve())
    yaml, settings = _resumed_yaml(options) if options.resume_dir else _model_yaml(options)
    images = find_captioned(options.image_dir, need_captions=options.stage != "autoencoder")
    data = {"pictures": len(images), "sha256": digest(images, options.image_dir)}
    files = {name: hash_file(read_checkpoint(path).path) for name in WEIGHTS if (path := getattr(options, name))}
    if options.resume_dir:
        directory = options.resume_dir
        _raise_if_changed(options, data, files)
        write_text(
            directory / RECORD, to_yaml({**read_yaml(directory / RECORD), "options": plain(recorded_options(options))})
        )
    elif is_helper_process():
        directory = Path(os.environ[RUN_DIR_VARIABLE])
        begin_run(directory, again(options.stage, directory))
    else:
        _raise_unless_possible(options, settings)
        with finish_first():  # a run that is begun can be continued
            directory = make_run_dir(options.output_dir, options.stage)
            write_record(directory / RECORD, recorded_options(options), config=yaml, data=data, files=files)
            begin_run(directory, again(options.stage, directory))
    return TrainingRun(directory, options, yaml, settings, devices, compute, images)


def recorded_options(options: argparse.Namespace) -> dict[str, Any]:
    """What is worth remembering of the command line."""
    return {name: value for name, value in vars(options).items() if name not in ("typed", "resume_dir")}


def tokenizer_source(options: argparse.Namespace, settings: Settings) -> Path:
    """The run's own tokenizer if it goes on, else that of the weights it starts from, else the YAML's."""
    if options.resume_dir and (own := options.resume_dir / "tokenizer").is_dir():
        return own
    beside = options.ckpt_path or options.autoencoder
    return tokenizer_dir(beside, settings) if beside else ROOT / settings.tokenizer


def _model_yaml(options: argparse.Namespace) -> tuple[dict[str, Any], Settings]:
    """That of the checkpoint to start from, unless `--config` was typed; else that of `--config`."""
    if options.ckpt_path is not None:
        typed = options.config if "config" in options.typed else None
        return settings_of(read_checkpoint(options.ckpt_path), typed)
    values = read_yaml(options.config)
    return values, build_config(Settings, values, str(options.config))


def _resumed_yaml(options: argparse.Namespace) -> tuple[dict[str, Any], Settings]:
    """The one that the run began with."""
    record = options.resume_dir / RECORD
    if not isinstance(values := read_yaml(record).get("config"), dict):
        raise UserError(f"{record} is damaged: it has no `config`")
    return values, build_config(Settings, values, str(record))


def _raise_if_changed(options: argparse.Namespace, data: dict[str, Any], files: dict[str, str]) -> None:
    """A run that goes on needs what it began with."""
    record = read_yaml(options.resume_dir / RECORD)
    if record.get("data", data) != data:
        raise UserError(f"the pictures or captions in {options.image_dir} are not those that this run began with")
    for name, sha256 in files.items():
        if record.get("files", files).get(name) != sha256:
            raise UserError(f"{getattr(options, name)} is not the file that this run began with")
    refuse_fewer_updates(options.resume_dir, options.iterations)


def _raise_unless_possible(options: argparse.Namespace, settings: Settings) -> None:
    """Pictures of a size that the networks take, weights that fit them, the text encoder's tokenizer, and room."""
    if options.stage == "judge":
        return
    first = options.stage == "autoencoder"
    model, stage = settings.model, f"{options.stage}_training"
    multiple = model.autoencoder.downsampling_factor if first else model.size_multiple
    if (size := getattr(settings, stage).size) < 1 or size % multiple:
        raise UserError(f"{options.config}: {stage}.size should be a multiple of {multiple} pixels, not {size}")
    with torch.device("meta"):
        ldm = LatentDiffusion(model)
    if start := options.ckpt_path and read_checkpoint(options.ckpt_path):
        for part in ("autoencoder",) if first else ("unet", "text_encoder"):
            raise_unless_part(getattr(ldm, part), part, start)
    if not first:
        raise_unless_part(ldm.autoencoder, "autoencoder", read_checkpoint(options.autoencoder or options.ckpt_path))
        source = tokenizer_source(options, settings)
        tokens, rows = len(load_tokenizer(source).clip_tokenizer), model.text_encoder.vocab_size
        if tokens != rows:
            raise UserError(f"the tokenizer in {source} has {tokens} tokens, but text_encoder.vocab_size is {rows}")
    _refuse_without_space(options, settings, ldm)


def _refuse_without_space(options: argparse.Namespace, settings: Settings, ldm: LatentDiffusion) -> None:
    config: OptimizationConfig
    if options.stage == "autoencoder":
        config, saved, trained = settings.autoencoder_training, _weights(ldm.autoencoder), _weights(ldm.autoencoder)
    else:
        config, saved, trained = settings.diffusion_training, _weights(ldm), _weights(ldm.unet)
        trained += _weights(ldm.text_encoder) * config.train_text_encoder
    refuse_without_space(
        options.output_dir,
        _configured(config, options),
        checkpoint=saved * SAVE_DTYPES[options.save_dtype].itemsize,
        state=trained * (STATE_BYTES[config.optimizer, "fp32"] + AVERAGE_BYTES),
    )


def _weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())

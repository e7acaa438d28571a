"""A training from scratch before it begins: its directory, record and devices, new or continued."""

import argparse
import logging
import os
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import checkpoint_info, raise_unless_part
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES
from ldm.commands.app import begin_run
from ldm.commands.disk_space import AVERAGE_BYTES, STATE_BYTES, refuse_unwritable, refuse_without_space
from ldm.commands.elsewhere import find_known, find_weights, moved, sha256_of
from ldm.commands.options.resumable import TRAIN, flag_of
from ldm.commands.options.train import FLAGS_OF_STAGE
from ldm.commands.record import plain, section, versions, write_record
from ldm.commands.resuming import (
    RECORD,
    is_finished_without_state,
    make_run_dir,
    mark_unsaved,
    refuse_fewer_updates,
    resumed_options,
)
from ldm.commands.train.memory import refuse_too_large_training
from ldm.config import build_config, read_yaml, to_yaml
from ldm.data.captioned import CaptionedImage, digest, find_captioned
from ldm.data.latents import moments_bytes
from ldm.diffusion.latent_diffusion import LatentDiffusion, count_weights
from ldm.errors import UserError
from ldm.files import ROOT, write_text
from ldm.interruption import finish_first
from ldm.nn.memory import weightless
from ldm.nn.tokenizer import copy_tokenizer, load_tokenizer, tokenizer_digest
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process, own_rank
from ldm.runtime.devices import Compute, parse_devices, training_compute
from ldm.runtime.models import Settings, recorded_settings, settings_of
from ldm.runtime.tokenizers import NAME, find_tokenizer, has_tokenizer, repair_tokenizer
from ldm.terminal import command_line
from ldm.toyworld.judge.data import Images
from ldm.training.config import OptimizationConfig

log = logging.getLogger(__name__)

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

    @property
    def iterations(self) -> int:
        """Updates of the weights, in all."""
        return self.configured(getattr(self.settings, f"{self.options.stage}_training")).iterations

    def configured(self, config: Config) -> Config:
        """A training's config with the flags that were given."""
        return _configured(config, self.options)

    def info(self, step: int, yaml: dict[str, Any]) -> CheckpointInfo:
        """What a checkpoint of this run says of itself."""
        options = {k: v.name if isinstance(v, Path) else v for k, v in recorded_options(self.options).items()}
        return CheckpointInfo(
            config=yaml,
            step=step,
            seed=self.options.seed,
            tokenizer=self.tokenizer_digest,
            options=plain(options),
            versions=versions(),
        )

    @property
    def tokenizer_digest(self) -> str:
        """Of the run's own tokenizer, which only a diffusion model has."""
        return tokenizer_digest(own) if (own := _own_tokenizer(self.directory)) else ""

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
        rules=TRAIN,
        paths=PATHS,
    )
    if options.stage != given.stage:
        raise UserError(
            f"{given.resume_dir} is a run of another stage: "
            f"{command_line('train.py', options.stage, '-r', given.resume_dir)}"
        )
    begin_run(options.resume_dir, command_line("train.py", options.stage, "-r", options.resume_dir))
    return _found_again(options)


def _found_again(options: argparse.Namespace) -> argparse.Namespace:
    """With the places where images and weights are now, unless they were typed."""
    record = read_yaml(options.resume_dir / RECORD)
    where = moved(options.resume_dir, record)
    files, data = record.get("files") or {}, record.get("data") or {}
    for name in WEIGHTS:
        if name not in options.typed and (path := getattr(options, name)):
            setattr(options, name, find_weights(path, files.get(name), where, flag_of(name)))
    if "image_dir" not in options.typed and options.image_dir:
        what = f"which held the {data.get('pictures', '')} images that this run is trained on"
        known = partial(_holds_data, stage=options.stage, data=data)
        options.image_dir = find_known(options.image_dir, known, where, what, "--image-dir")
    if not (options.output_dir and options.output_dir.is_dir()):
        options.output_dir = where.now.parent
    return options


def _holds_data(directory: Path, stage: str, data: dict[str, Any]) -> bool:
    return digest(find_captioned(directory, need_captions=stage != "autoencoder"), directory) == data.get("sha256")


def is_done(options: argparse.Namespace) -> bool:
    """Whether a run that is to go on has ended and left no resume state, which is said; an error if that is lost."""
    _, settings = recorded_settings(options.resume_dir / RECORD)
    config: OptimizationConfig = _configured(getattr(settings, f"{options.stage}_training"), options)
    again = ["train.py", options.stage, "-i", options.image_dir]
    again += ["--autoencoder", options.autoencoder] if options.autoencoder else []
    takes_weights = "ckpt_path" in FLAGS_OF_STAGE[options.stage]
    return is_finished_without_state(options.resume_dir, config.iterations, again if takes_weights else [])


def open_run(options: argparse.Namespace) -> TrainingRun:
    """Decides and checks everything that can be; then makes the run's directory, or finds the one to continue."""
    if options.image_dir is None:
        raise UserError("--image-dir is needed: a folder of images, with captions for all but the autoencoder")
    if options.stage == "diffusion" and not (options.autoencoder or options.ckpt_path):
        raise UserError("--autoencoder is needed: a checkpoint of `python train.py autoencoder`, or of a whole model")
    devices = parse_devices(options.devices)
    compute = training_compute(devices[0], options.precision)
    for name in PATHS:
        if (path := getattr(options, name)) is not None:
            setattr(options, name, path.resolve())
    yaml, settings = _model_yaml(options)
    images = find_captioned(options.image_dir, need_captions=options.stage != "autoencoder")
    data = {"pictures": len(images), "sha256": digest(images, options.image_dir)}
    files = {name: sha256_of(read_checkpoint(path).path) for name in WEIGHTS if (path := getattr(options, name))}
    if options.resume_dir:
        directory = options.resume_dir
        _raise_if_changed(options, data, files)
        _continue(options, settings)
    elif is_helper_process():
        directory = Path(os.environ[RUN_DIR_VARIABLE])
        begin_run(directory, command_line("train.py", options.stage, "-r", directory))
        options.seed = read_yaml(directory / RECORD)["options"]["seed"]  # -1 would be another one in each process
    else:
        _raise_unless_possible(options, settings, len(images))
        refuse_unwritable(
            options.output_dir, *([options.output_dir / "latents"] if options.stage == "diffusion" else [])
        )
        with finish_first():  # a run that is begun can be continued
            directory = make_run_dir(options.output_dir, options.stage)
            known = {"directory": str(directory.resolve()), "data": data, "files": files}
            if options.stage == "diffusion":
                copy_tokenizer(source := tokenizer_source(options, settings), directory / NAME)
                known["tokenizer"] = tokenizer_digest(source)
            write_record(directory / RECORD, recorded_options(options), config=yaml, **known)
            begin_run(directory, command_line("train.py", options.stage, "-r", directory))
    if not is_helper_process():
        mark_unsaved(directory)
    return TrainingRun(directory, options, yaml, settings, devices, compute, images)


def latents_dir(options: argparse.Namespace) -> Path:
    """Where encoded images are kept for all runs."""
    directory: Path = options.output_dir / "latents"
    return directory


def recorded_options(options: argparse.Namespace) -> dict[str, Any]:
    """What is worth remembering of the command line."""
    return {name: value for name, value in vars(options).items() if name not in ("typed", "resume_dir")}


def tokenizer_source(options: argparse.Namespace, settings: Settings) -> Path:
    """The run's own tokenizer if it goes on, else that of the weights it starts from, else the YAML's."""
    own = _own_tokenizer(options.resume_dir) if options.resume_dir else None
    return own or _first_tokenizer(options, settings)


def _first_tokenizer(options: argparse.Namespace, settings: Settings) -> Path:
    """That of the weights a run starts from, else the YAML's."""
    if beside := options.ckpt_path or options.autoencoder:
        return find_tokenizer(beside, settings.tokenizer, checkpoint_info(read_checkpoint(beside)).tokenizer)
    return ROOT / settings.tokenizer


def _continue(options: argparse.Namespace, settings: Settings) -> None:
    """Repairs the run's tokenizer and records where everything is now; one process does that."""
    if is_helper_process():
        return
    directory = options.resume_dir
    record = read_yaml(directory / RECORD)
    known: dict[str, Any] = {"directory": str(directory.resolve()), "options": plain(recorded_options(options))}
    if options.stage == "diffusion":
        source = _first_tokenizer(options, settings)
        digest = str(record.get("tokenizer") or "") or tokenizer_digest(_own_tokenizer(directory) or source)
        repair_tokenizer(directory, digest, [source])
        known["tokenizer"] = digest
    write_text(directory / RECORD, to_yaml({**record, **known}))


def _own_tokenizer(directory: Path) -> Path | None:
    """The run's own tokenizer, if its files are there."""
    return own if has_tokenizer(own := directory / NAME) else None


def _model_yaml(options: argparse.Namespace) -> tuple[dict[str, Any], Settings]:
    """A run's that goes on; that of the checkpoint to start from, unless `--config` was typed; that of `--config`."""
    if options.resume_dir:
        return recorded_settings(options.resume_dir / RECORD)
    if options.ckpt_path is not None:
        typed = options.config if "config" in options.typed else None
        return settings_of(read_checkpoint(options.ckpt_path), typed)
    values = read_yaml(options.config)
    return values, build_config(Settings, values, str(options.config))


def _raise_if_changed(options: argparse.Namespace, data: dict[str, Any], files: dict[str, str]) -> None:
    """A run that goes on needs what it began with."""
    record = read_yaml(options.resume_dir / RECORD)
    if record.get("data", data) != data:
        raise UserError(f"the images or captions in {options.image_dir} are not those that this run began with")
    for name, sha256 in files.items():
        if "files" in record and section(record, "files").get(name) != sha256:
            raise UserError(f"{getattr(options, name)} is not the file that this run began with")
    refuse_fewer_updates(options.resume_dir, options.iterations)


def _raise_unless_possible(options: argparse.Namespace, settings: Settings, images: int) -> None:
    """Images of a size that the networks take, weights that fit them, the text encoder's tokenizer, and room."""
    if options.stage == "judge":
        load_tokenizer(tokenizer_source(options, settings))
        Images([options.image_dir])
        return
    first = options.stage == "autoencoder"
    model, stage = settings.model, f"{options.stage}_training"
    multiple = model.autoencoder.downsampling_factor if first else model.size_multiple
    if (size := getattr(settings, stage).size) < 1 or size % multiple:
        raise UserError(f"{options.config}: {stage}.size should be a multiple of {multiple} pixels, not {size}")
    batch_size = _configured(getattr(settings, stage), options).batch_size
    refuse_too_large_training(settings, options.stage, size, batch_size, parse_devices(options.devices))
    with weightless():
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
    _refuse_without_space(options, settings, images)


def _refuse_without_space(options: argparse.Namespace, settings: Settings, images: int) -> None:
    config: OptimizationConfig
    latents = 0
    if options.stage == "autoencoder":
        config = settings.autoencoder_training
        saved = trained = count_weights(settings.model, PARTS["autoencoder"])
    else:
        config, saved = settings.diffusion_training, count_weights(settings.model)
        trained = count_weights(settings.model, PARTS["unet"])
        trained += count_weights(settings.model, PARTS["text_encoder"]) * config.train_text_encoder
        latents = moments_bytes(settings.model.autoencoder, images, config.size, config.flip)
        if any(path.stat().st_size - latents in range(4096) for path in latents_dir(options).glob("*.npy")):
            latents = 0  # so large is what an earlier run encoded of these images
    refuse_without_space(
        options.output_dir,
        _configured(config, options),
        checkpoint=saved * SAVE_DTYPES[options.save_dtype].itemsize,
        state=trained * (STATE_BYTES[config.optimizer, "fp32"] + AVERAGE_BYTES),
        more=latents,
        what="the encoded images",
    )

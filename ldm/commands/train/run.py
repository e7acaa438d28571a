"""Prepares a stage of a training from scratch: options, run directory and record, new or resumed."""

import argparse
import logging
import os
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.commands.app import begin_run
from ldm.commands.disk_space import refuse_unwritable
from ldm.commands.elsewhere import find_known, find_weights, moved, sha256_of
from ldm.commands.options.resumable import TRAIN, flag_of
from ldm.commands.options.train import STAGE_FLAGS
from ldm.commands.record import plain, section, versions, write_record
from ldm.commands.resuming import (
    RECORD,
    is_finished,
    make_run_dir,
    mark_unsaved,
    refuse_fewer_updates,
    resumed_options,
)
from ldm.commands.train.checks import (
    first_tokenizer,
    latents_dir,
    own_tokenizer,
    refuse_impossible,
    tokenizer_source,
)
from ldm.config import build_config, read_yaml, to_yaml
from ldm.data.captioned import CaptionedImage, digest, find_captioned
from ldm.data.edit_pairs import EditPair, find_pairs
from ldm.data.edit_pairs import digest as digest_of_pairs
from ldm.diffusion.editing import EDIT_CHANNELS
from ldm.errors import UserError
from ldm.files import write_text
from ldm.interruption import finish_first
from ldm.nn.tokenizer import copy_tokenizer, tokenizer_digest
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process, own_rank
from ldm.runtime.devices import Compute, parse_devices, training_compute
from ldm.runtime.models import Settings, recorded_settings, settings_of
from ldm.runtime.tokenizers import NAME, repair_tokenizer
from ldm.terminal import command_line
from ldm.training.config import OptimizationConfig
from ldm.training.logs import refuse_unusable_loggers
from ldm.user_files import resolved

log = logging.getLogger(__name__)

OVERRIDES = ("iterations", "save_every", "learning_rate", "batch_size")
"""Flags that replace the YAML's values."""
PATHS = ("image_dir", "config", "output_dir", "ckpt_path", "autoencoder")
WITH_TOKENIZER = ("diffusion", "edit")
"""The stages whose models read prompts, and that keep encoded images."""
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
    pairs: list[EditPair]
    """Of the stage `edit`, which has no captioned images."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.devices[own_rank() % len(self.devices)]

    def configured(self, config: Config) -> Config:
        """A stage's config with the flags that are set."""
        return _configured(config, self.options)

    def info(self, step: int, yaml: dict[str, Any]) -> CheckpointInfo:
        """The metadata of a checkpoint of this run."""
        own = own_tokenizer(self.directory)  # only a diffusion model has one
        options = {k: v.name if isinstance(v, Path) else v for k, v in _recorded_options(self.options).items()}
        return CheckpointInfo(
            config=yaml,
            step=step,
            seed=self.options.seed,
            tokenizer=tokenizer_digest(own) if own else "",
            options=plain(options),
            versions=versions(),
        )

    def checkpoint_path(self, step: int) -> Path:
        """The file of a step's weights."""
        return self.directory / f"step-{step:06d}.safetensors"


def _configured(config: Config, options: argparse.Namespace) -> Config:
    flags = {name: getattr(options, name) for name in OVERRIDES}
    known = {field.name for field in fields(config)}
    return replace(config, **{k: v for k, v in flags.items() if v is not None and k in known})


def _stage_config(settings: Settings, options: argparse.Namespace) -> OptimizationConfig:
    config: OptimizationConfig = getattr(settings, f"{options.stage}_training")
    return _configured(config, options)


def _recorded_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that belong into a record."""
    return {name: value for name, value in vars(options).items() if name not in ("typed", "resume_dir")}


def resumed_training_options(options: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `--resume-dir`, with the current places of its images and weights."""
    typed = [name for name in options.typed if name != "stage"]
    resumed = resumed_options(
        argparse.Namespace(**vars(options) | {"typed": typed}),
        script="train.py",
        own_option="stage",
        rules=TRAIN,
        paths=PATHS,
    )
    if resumed.stage != options.stage:
        raise UserError(
            f"{options.resume_dir} is a run of another stage: "
            f"{command_line('train.py', resumed.stage, '-r', options.resume_dir)}"
        )
    begin_run(resumed.resume_dir, command_line("train.py", resumed.stage, "-r", resumed.resume_dir))
    return _with_current_places(resumed)


def _with_current_places(options: argparse.Namespace) -> argparse.Namespace:
    """Finds images and weights that have moved, unless their flags are set."""
    record = read_yaml(options.resume_dir / RECORD)
    moved_run = moved(options.resume_dir, record)
    files, data = record.get("files") or {}, record.get("data") or {}
    for name in WEIGHTS:
        if name not in options.typed and (path := getattr(options, name)):
            setattr(options, name, find_weights(path, files.get(name), moved_run, flag_of(name)))
    if "image_dir" not in options.typed and options.image_dir:
        description = f"which held the {data.get('pictures', '')} images that this run is trained on"
        known = partial(_has_data, stage=options.stage, data=data)
        options.image_dir = find_known(options.image_dir, known, moved_run, description, "--image-dir")
    if not (options.output_dir and options.output_dir.is_dir()):
        options.output_dir = moved_run.now.parent
    return options


def _has_data(directory: Path, stage: str, data: dict[str, Any]) -> bool:
    return _find_data(directory, stage)[2]["sha256"] == data.get("sha256")


def _find_data(directory: Path, stage: str) -> tuple[list[CaptionedImage], list[EditPair], dict[str, Any]]:
    """The images or the pairs of a stage, and what identifies them in the record."""
    if stage == "edit":
        pairs = find_pairs(directory)
        return [], pairs, {"pictures": len(pairs), "sha256": digest_of_pairs(pairs, directory)}
    images = find_captioned(directory, need_captions=stage != "autoencoder")
    return images, [], {"pictures": len(images), "sha256": digest(images, directory)}


def is_done(options: argparse.Namespace) -> bool:
    """Whether a run to resume is finished, which is logged. Raises `UserError` if its resume state was lost."""
    _, settings = recorded_settings(options.resume_dir / RECORD)
    new_run = ["train.py", options.stage, "-i", options.image_dir]
    new_run += ["--autoencoder", options.autoencoder] if options.autoencoder else []
    takes_weights = "ckpt_path" in STAGE_FLAGS[options.stage]
    return is_finished(
        options.resume_dir,
        _stage_config(settings, options).iterations,
        ["train.py", options.stage, "-r", options.resume_dir],
        new_run if takes_weights else [],
        drop=options.drop_resume_state,
        is_complete=True,
    )


def open_run(options: argparse.Namespace) -> TrainingRun:
    """Checks all that can be checked; then makes the run's directory, or opens the one to resume."""
    if options.image_dir is None:
        kind = "pairs of images" if options.stage == "edit" else "images, with captions for all but the autoencoder"
        raise UserError(f"--image-dir is needed: a folder of {kind}")
    if options.stage == "diffusion" and not (options.autoencoder or options.ckpt_path):
        raise UserError("--autoencoder is needed: a checkpoint of `python train.py autoencoder`, or of a whole model")
    if options.stage == "edit" and not options.ckpt_path:
        raise UserError("--ckpt-path is needed: the model that samples images, which learns to edit them")
    devices = parse_devices(options.devices)
    compute = training_compute(devices[0], options.precision)
    refuse_unusable_loggers(options.logger)
    for name in PATHS:
        if (path := getattr(options, name)) is not None:
            setattr(options, name, resolved(path))
    yaml, settings = _model_yaml(options)
    config = _stage_config(settings, options)
    images, pairs, data = _find_data(options.image_dir, options.stage)
    files = {name: sha256_of(read_checkpoint(path).path) for name in WEIGHTS if (path := getattr(options, name))}
    if options.resume_dir:
        directory = options.resume_dir
        _refuse_changes(options, config, data, files)
        if not is_helper_process():
            _update_record(options, settings)
    elif is_helper_process():
        directory = Path(os.environ[RUN_DIR_VARIABLE])
        begin_run(directory, command_line("train.py", options.stage, "-r", directory))
        options.seed = read_yaml(directory / RECORD)["options"]["seed"]  # -1 would be another one in each process
    else:
        refuse_impossible(options, settings, config, data["pictures"], devices)
        refuse_unwritable(options.output_dir, *([latents_dir(options)] if options.stage in WITH_TOKENIZER else []))
        with finish_first():  # a run that has begun can be resumed
            directory = make_run_dir(options.output_dir, options.stage)
            known = {"directory": str(resolved(directory)), "data": data, "files": files}
            if options.stage in WITH_TOKENIZER:
                copy_tokenizer(source := tokenizer_source(options, settings), directory / NAME)
                known["tokenizer"] = tokenizer_digest(source)
            write_record(directory / RECORD, _recorded_options(options), config=yaml, **known)
            begin_run(directory, command_line("train.py", options.stage, "-r", directory))
    if not is_helper_process():
        mark_unsaved(directory)
    return TrainingRun(directory, options, yaml, settings, devices, compute, images, pairs)


def _model_yaml(options: argparse.Namespace) -> tuple[dict[str, Any], Settings]:
    """The resumed run's YAML; else the starting checkpoint's, unless `--config` is set; else that of `--config`."""
    if options.resume_dir:
        return recorded_settings(options.resume_dir / RECORD)
    if options.ckpt_path is not None:
        typed = options.config if "config" in options.typed else None
        file = read_checkpoint(options.ckpt_path)
        values, settings = settings_of(file, typed)
        return _edit_yaml(values, file) if options.stage == "edit" else (values, settings)
    values = read_yaml(options.config)
    return values, build_config(Settings, values, str(options.config))


def _edit_yaml(values: dict[str, Any], file: CheckpointFile) -> tuple[dict[str, Any], Settings]:
    """The YAML of a model that edits, from that of the model that it starts from.

    Its UNet takes two images' latents. `--config` decides how it is trained, and the file has its shape. A YAML that
    doesn't say at what size edits are trained has the model's own.
    """
    values = {**values, **{name: one for name, one in checkpoint_info(file).config.items() if name == "model"}}
    settings = build_config(Settings, values, str(file.path))
    channels = settings.model.autoencoder.embed_dim + EDIT_CHANNELS
    stage = {"size": min(settings.sampling.height, settings.sampling.width)}
    model = {**values["model"], "unet": {**values["model"].get("unet", {}), "in_channels": channels}}
    widened = {**values, "model": model, "edit_training": {**stage, **values.get("edit_training", {})}}
    return widened, build_config(Settings, widened, "the YAML of the model that edits")


def _refuse_changes(
    options: argparse.Namespace, config: OptimizationConfig, data: dict[str, Any], files: dict[str, str]
) -> None:
    """Raises `UserError` unless images and weights are those that the run began with."""
    record = read_yaml(options.resume_dir / RECORD)
    if record.get("data", data) != data:
        raise UserError(f"the images or captions in {options.image_dir} are not those that this run began with")
    for name, sha256 in files.items():
        if "files" in record and section(record, "files").get(name) != sha256:
            raise UserError(f"{getattr(options, name)} is not the file that this run began with")
    refuse_fewer_updates(options.resume_dir, config.iterations)


def _update_record(options: argparse.Namespace, settings: Settings) -> None:
    """Repairs a resumed run's tokenizer, and records the current places of everything."""
    directory = options.resume_dir
    record = read_yaml(directory / RECORD)
    known: dict[str, Any] = {"directory": str(resolved(directory)), "options": plain(_recorded_options(options))}
    if options.stage in WITH_TOKENIZER:
        source = first_tokenizer(options, settings)
        sha256 = str(record.get("tokenizer") or "") or tokenizer_digest(own_tokenizer(directory) or source)
        repair_tokenizer(directory, sha256, [source])
        known["tokenizer"] = sha256
    write_text(directory / RECORD, to_yaml({**record, **known}))

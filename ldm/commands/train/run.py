"""A training from scratch before it begins: its directory, record and devices, new or continued."""

import argparse
import logging
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth_plan import is_helper_process
from ldm.commands.models import Settings, settings_of
from ldm.commands.placement import Compute, parse_devices, training_compute
from ldm.commands.record import plain, versions, write_record
from ldm.commands.resuming import RECORD, RUN_DIR_VARIABLE, resumed_options
from ldm.config import build_config, read_yaml, to_yaml
from ldm.errors import UserError
from ldm.files import PARTIAL_SUFFIX, make_numbered_dir, write_text
from ldm.training.config import OptimizationConfig

log = logging.getLogger(__name__)

MAY_CHANGE = ("resume_dir", "devices", "logger", "iterations", "save_every", "workers", "precision")
"""Flags that a resumed run takes from the command line; the others are the run's own."""
OVERRIDES = ("iterations", "save_every", "learning_rate", "batch_size")
"""Flags that go before the values in the YAML."""

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

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.devices[int(os.environ.get("LOCAL_RANK", 0)) % len(self.devices)]

    def configured(self, config: Config) -> Config:
        """A training's config with the flags that were given."""
        given = {name: getattr(self.options, name) for name in OVERRIDES}
        known = {field.name for field in fields(config)}
        return replace(config, **{k: v for k, v in given.items() if v is not None and k in known})

    def info(self, step: int, yaml: dict[str, Any]) -> CheckpointInfo:
        """What a checkpoint of this run says of itself."""
        options = {k: v.name if isinstance(v, Path) else v for k, v in vars(self.options).items()}
        return CheckpointInfo(
            config=yaml, step=step, seed=self.options.seed, options=plain(options), versions=versions()
        )

    def checkpoint_path(self, step: int) -> Path:
        """Where the weights of a step are written."""
        return self.directory / f"step-{step:06d}.safetensors"


def resumed_training_options(given: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `--resume-dir`."""
    paths = ("image_dir", "config", "output_dir", "ckpt_path", "autoencoder")
    return resumed_options(given, script="train.py", has="stage", may_change=MAY_CHANGE, paths=paths)


def open_run(options: argparse.Namespace) -> TrainingRun:
    """Makes the run's directory and writes its record, or finds those of the run to continue."""
    if options.image_dir is None:
        raise UserError("--image-dir is needed: a folder of pictures, with captions for all but the autoencoder")
    devices = parse_devices(options.devices)
    compute = training_compute(devices[0], options.precision)
    for name in ("image_dir", "config", "output_dir", "ckpt_path", "autoencoder"):
        if (path := getattr(options, name)) is not None:
            setattr(options, name, path.resolve())
    if options.resume_dir:
        directory = options.resume_dir
        for partial in directory.glob(f".*{PARTIAL_SUFFIX}"):  # left by a process that was killed while writing
            partial.unlink()
        record = read_yaml(directory / RECORD)
        yaml = record["config"]
        settings = build_config(Settings, yaml, str(directory / RECORD))
        write_text(directory / RECORD, to_yaml({**record, "options": plain(_recorded(options))}))
    else:
        yaml, settings = _model_yaml(options)
        if is_helper_process():
            directory = Path(os.environ[RUN_DIR_VARIABLE])
        else:
            directory = make_numbered_dir(options.output_dir, options.stage)
            write_record(directory / RECORD, _recorded(options), config=yaml)
    return TrainingRun(directory, options, yaml, settings, devices, compute)


def _model_yaml(options: argparse.Namespace) -> tuple[dict[str, Any], Settings]:
    """That of the checkpoint to start from, unless `--config` was typed; else that of `--config`."""
    if options.ckpt_path is not None:
        typed = options.config if "config" in options.typed else None
        return settings_of(read_checkpoint(options.ckpt_path), typed)
    values = read_yaml(options.config)
    return values, build_config(Settings, values, str(options.config))


def _recorded(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in ("typed", "resume_dir")}

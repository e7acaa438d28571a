"""Everything about a DreamBooth run that is decided and checked before anything is computed or written."""

import argparse
import logging
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import hash_file
from ldm.commands.dreambooth.vram import FIELDS, FLOAT_WEIGHTS, fit_into_memory
from ldm.commands.elsewhere import find_photo_directory, find_weights, moved, sha256_of
from ldm.commands.enough_memory import refuse_too_large_images, refuse_too_large_training
from ldm.commands.limits import warn_of_photos, warn_of_unknown_words
from ldm.commands.options.resumable import DREAMBOOTH
from ldm.commands.resuming import RECORD, refuse_another_size, resumed_options
from ldm.commands.sampling.job import sampling_flags, sampling_from, with_sampler
from ldm.config import read_yaml
from ldm.data.photos import read_directory
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.files import ROOT, counted
from ldm.nn.tokenizer import PromptTokenizer, tokenizer_digest
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process
from ldm.runtime.compiling import refuse_graphs_without_cuda
from ldm.runtime.devices import Compute, parse_devices, training_compute, training_precision
from ldm.runtime.models import (
    Settings,
    base_weights,
    read_tokenizer,
    recorded_settings,
    settings_of,
    snapped_size,
)
from ldm.runtime.tokenizers import NAME, find_tokenizer, has_tokenizer, repair_tokenizer
from ldm.training.class_images import DIRECTORY as CLASS_IMAGES
from ldm.training.config import DreamBoothConfig, Subject
from ldm.training.memory import Workload

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before anything is computed or written."""

    options: argparse.Namespace
    """Every flag with the value that is used."""
    base: Path
    base_sha256: str
    photos: dict[str, str]
    """Their names, and the SHA-256 of each."""
    yaml: dict[str, Any]
    settings: Settings
    tokenizer: Path
    """The directory of the model's tokenizer: that of the base weights, or the run's own if it goes on."""
    tokenizer_digest: str
    subject: Subject
    config: DreamBoothConfig
    sampling: SamplingConfig
    """Of previews."""
    class_sampling: SamplingConfig
    instance_images: Tensor
    """(n 3 height width) in [-1, 1]"""
    devices: list[torch.device]
    compute: Compute

    @property
    def training_autocast_dtype(self) -> torch.dtype | None:
        """What a training step's arithmetic is lowered to; nothing if the trained weights are in that type already."""
        return self.compute.autocast_dtype if self.config.train_dtype == "fp32" else None


def resumed_run_options(given: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `--resume-dir`."""
    return resumed_options(
        given,
        script="dreambooth.py",
        has="class_name",
        rules=DREAMBOOTH,
        paths=("ckpt_path", "config", "instance_img_dir", "output_dir"),
        config=DreamBoothConfig,
    )


def found_again(options: argparse.Namespace) -> argparse.Namespace:
    """With the places where base weights and photos are now, unless they were typed."""
    record = read_yaml(options.resume_dir / RECORD)
    where = moved(options.resume_dir, record)
    if "ckpt_path" not in options.typed and options.ckpt_path:
        options.ckpt_path = find_weights(options.ckpt_path, record.get("base_sha256"), where, "--ckpt-path")
    if "instance_img_dir" not in options.typed and options.instance_img_dir:
        photos = record.get("photos") or {}
        options.instance_img_dir = find_photo_directory(options.instance_img_dir, photos, where, "--instance-img-dir")
    if not (options.output_dir and (options.output_dir / CLASS_IMAGES).is_dir()):
        options.output_dir = where.now.parent
    return options


def plan_run(options: argparse.Namespace) -> Plan:
    """Decides everything and checks what can be checked; writes nothing."""
    if not options.class_name or not options.instance_img_dir:
        raise UserError('--class-name and --instance-img-dir are needed: -c "water bottle" -i data/bottle')
    if is_helper_process():  # what the first process has chosen
        chosen = read_yaml(Path(os.environ[RUN_DIR_VARIABLE]) / RECORD)["options"]
        options = argparse.Namespace(**{**vars(options), **{name: chosen[name] for name in (*FIELDS, "seed")}})
    devices = parse_devices(options.devices)
    refuse_graphs_without_cuda(options.compile, devices[0])
    compute = training_compute(devices[0], options.precision)
    base = base_weights(options.ckpt_path)
    if base.is_dir():
        raise UserError(f"--ckpt-path takes one checkpoint to start from, and {base} is a directory")
    file = read_checkpoint(base)
    yaml, settings = _yaml_of(options, file)
    raise_unless_whole(file, settings.model)
    tokenizer = _tokenizer(options, base, file, settings)
    height, width = snapped_size(settings.model, options.hw, (settings.sampling.height, settings.sampling.width))
    refuse_another_size(options, height, width, DREAMBOOTH)
    sampling = sampling_from(options, settings.sampling, height, width)
    refuse_too_large_images(settings.model, sampling, 1, compute.dtype, devices[0])
    config = _config_from(options, settings.dreambooth, sampling)
    config = _fitting(options, config, settings, (height, width), devices, compute)
    # Weights in bfloat16 are computed with as they are.
    precision = "bf16-mixed" if config.train_dtype == "bf16" else training_precision(devices[0], options.precision)
    paths, instance_images = read_directory(options.instance_img_dir, height, width)
    log.info("%s of '%s' from %s", counted(len(paths), "photo"), options.class_name, options.instance_img_dir)
    encode = read_tokenizer(tokenizer, settings)
    if not options.resume_dir and not is_helper_process():
        _warn_of_strangers(options, config, settings, encode, instance_images)
    return Plan(
        options=argparse.Namespace(**{**_resolved(options, config, sampling, base), "precision": precision}),
        base=base,
        base_sha256=sha256_of(base),
        photos={path.name: hash_file(path) for path in paths},
        yaml=yaml,
        settings=settings,
        tokenizer=tokenizer,
        tokenizer_digest=encode.digest,
        subject=Subject(options.class_name),
        config=config,
        sampling=sampling,
        class_sampling=with_sampler(sampling, config.class_sampler, config.class_steps),
        instance_images=instance_images,
        devices=devices,
        compute=training_compute(devices[0], precision),  # as the run computes if it is continued
    )


def _warn_of_strangers(
    options: argparse.Namespace,
    config: DreamBoothConfig,
    settings: Settings,
    tokenizer: PromptTokenizer,
    images: Tensor,
) -> None:
    """A model of a small world can't be taught what is not of it."""
    previews = [prompt.replace("{class}", options.class_name) for prompt in config.preview_prompts]
    warn_of_unknown_words(settings, tokenizer, [options.class_name, *previews])
    warn_of_photos(settings, f"the photos in {options.instance_img_dir}", lambda: images)


def _yaml_of(options: argparse.Namespace, file: CheckpointFile) -> tuple[dict[str, Any], Settings]:
    """That of the base weights; a run that goes on has its own."""
    return recorded_settings(options.resume_dir / RECORD) if options.resume_dir else settings_of(file, options.config)


def _tokenizer(options: argparse.Namespace, base: Path, file: CheckpointFile, settings: Settings) -> Path:
    """The base weights' tokenizer; a run that goes on has its own, which is repaired if it is damaged."""
    digest = checkpoint_info(file).tokenizer
    if not options.resume_dir:
        return find_tokenizer(base, settings.tokenizer, digest)
    own = options.resume_dir / NAME
    wanted = str(read_yaml(options.resume_dir / RECORD).get("tokenizer") or "")
    sources = [base.parent / NAME, *([ROOT / settings.tokenizer] if settings.tokenizer else [])]
    if not wanted:  # an older run: its copy was made of the base weights'
        source = find_tokenizer(base, settings.tokenizer, digest)
        wanted = tokenizer_digest(source if has_tokenizer(source) else own)
    if not is_helper_process():
        repair_tokenizer(options.resume_dir, wanted, sources)
    return own


def _resolved(
    options: argparse.Namespace, config: DreamBoothConfig, sampling: SamplingConfig, base: Path
) -> dict[str, Any]:
    """Every flag with the value that is used: the run continues from any directory, also after defaults changed."""
    return {
        **{name: value for name, value in vars(options).items() if name != "typed"},
        **{name: value for name, value in asdict(config).items() if name in vars(options)},
        **sampling_flags(sampling),
        "lamb": config.prior_loss_weight,
        "ckpt_path": base.resolve(),
        "config": options.config and options.config.resolve(),
        "instance_img_dir": options.instance_img_dir.resolve(),
        "output_dir": options.output_dir.resolve(),
    }


def _config_from(options: argparse.Namespace, defaults: DreamBoothConfig, sampling: SamplingConfig) -> DreamBoothConfig:
    """The flags where they were given, the model's defaults elsewhere.

    `--sampler` and `--ddim-steps` are for class images too, where these have no flags of their own.
    """
    given = {field.name: getattr(options, field.name, None) for field in fields(DreamBoothConfig)}
    given["prior_loss_weight"] = options.lamb
    given["preview_prompts"] = () if options.no_previews else options.preview_prompts and tuple(options.preview_prompts)
    if options.class_sampler is None and options.sampler is not None:
        given |= {"class_sampler": sampling.sampler, "class_steps": options.class_steps or sampling.num_steps}
    given["class_steps"] = given["class_steps"] or options.ddim_steps
    given |= _with_it(options)
    try:
        config = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from error
    return replace(config, class_img_count=0) if config.prior_loss_weight == 0 else config


def _with_it(options: argparse.Namespace) -> dict[str, str]:
    """What the type of the weights or the optimizer that was given brings with it where the other was not."""
    if options.train_dtype == "bf16" and options.optimizer is None:
        return {"optimizer": "adamw8bit"}
    if options.optimizer == "adamw" and options.train_dtype is None:
        return {"train_dtype": "fp32"}
    return {}


def _fitting(
    options: argparse.Namespace,
    config: DreamBoothConfig,
    settings: Settings,
    size: tuple[int, int],
    devices: list[torch.device],
    compute: Compute,
) -> DreamBoothConfig:
    """The config with what is chosen for the memory that there is."""
    workload = Workload(
        settings.model,
        *size,
        with_class=config.class_img_count > 0,
        autocast_dtype=compute.autocast_dtype,
        like_cuda=devices[0].type == "cuda",
        devices=len(devices),
        previews=bool(config.preview_prompts),
    )
    config = fit_into_memory(options, config, workload, devices)
    refuse_too_large_training(workload, config, devices[0])
    if config.train_dtype == "bf16" and options.precision in FLOAT_WEIGHTS:
        raise UserError(f"--train-dtype bf16 is computed with as it is, not in --precision {options.precision}")
    return config

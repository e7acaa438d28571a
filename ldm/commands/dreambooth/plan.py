"""What a DreamBooth run will do: decided and checked before anything is computed or written."""

import argparse
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import hash_file
from ldm.choices import LORA_LEARNING_RATE, OPTIMIZERS, PROMPT_TEMPLATES
from ldm.commands.dreambooth.subject_files import captions_for, class_images_of, find_photos_again
from ldm.commands.dreambooth.vram import MEMORY_FLAGS, fit_into_memory, workload_of
from ldm.commands.elsewhere import find_weights, moved, sha256_of
from ldm.commands.enough_memory import dreambooth_need, refuse_too_large_images, refuse_too_large_training
from ldm.commands.options.resumable import DREAMBOOTH, flag_of
from ldm.commands.record import section
from ldm.commands.resuming import RECORD, own_record, refuse_another_size, resumed_options
from ldm.commands.sampling.job import sampling_flags, sampling_from, with_sampler
from ldm.commands.unfamiliar import warn_of_photos, warn_of_unknown_words
from ldm.config import read_yaml
from ldm.data.drawn_prompts import DrawnPrompts, drawn_prompts, without_caption
from ldm.data.photos import images_of, inspect_directory
from ldm.data.verdicts import Verdict
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.files import ROOT, counted
from ldm.nn.tokenizer import tokenizer_digest
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process
from ldm.runtime.compiling import refuse_graphs_without_cuda
from ldm.runtime.devices import Compute, parse_devices, sampling_compute, training_compute, training_precision
from ldm.runtime.models import (
    Settings,
    base_weights,
    read_tokenizer,
    recorded_settings,
    settings_of,
    snapped_size,
)
from ldm.runtime.tokenizers import NAME, find_tokenizer, has_tokenizer, repair_tokenizer, tokenizer_beside
from ldm.training.class_images import DIRECTORY as CLASS_IMAGES
from ldm.training.class_images import ClassImages
from ldm.training.config import DreamBoothConfig, Subject
from ldm.user_files import is_diffusers_directory, resolved

log = logging.getLogger(__name__)

SCRIPT, OWN_OPTION = "dreambooth.py", "class_name"
"""How a run of this command is known."""


@dataclass(frozen=True)
class RunPlan:
    """Everything that is decided before anything is computed or written."""

    options: argparse.Namespace
    """Every flag with the value that is used, as the run's record has it."""
    output_dir: Path
    """The directory for new runs, as the user gave it, for messages."""
    base: Path
    base_sha256: str
    photos: dict[str, str]
    """The SHA-256 of each photo, by its name."""
    yaml: dict[str, Any]
    settings: Settings
    tokenizer: Path
    """The directory of the base model's tokenizer, or of a resumed run's own."""
    tokenizer_digest: str
    subject: Subject
    captions: list[tuple[str, ...]]
    """Of each photo; none if no prompt has a place for them."""
    config: DreamBoothConfig
    sampling: SamplingConfig
    """How previews are sampled."""
    photo_verdicts: list[Verdict]
    """What was found about each file in the folder of photos."""
    is_unfamiliar: bool
    """Whether there was a warning of words or photos outside the world of a small model."""
    own_class_images: tuple[Path, ...]
    """The files of --class-img-dir; empty if class images are sampled."""
    origins: dict[str, str]
    """Archives and URLs that folders of photos were unpacked from, by option."""
    instance_images: Tensor
    """(n 3 height width) in [-1, 1]"""
    devices: list[torch.device]
    compute: Compute

    @property
    def prompts(self) -> DrawnPrompts | None:
        """The prompts to draw from; None if all photos have the same."""
        config, named = self.config, self.subject.named
        if len(config.instance_prompts) == 1 and not any(self.captions):
            return None
        templates = [named(prompt) for prompt in config.instance_prompts]
        return drawn_prompts(templates, self.captions, self.subject.class_prompt, config.caption_dropout)

    @property
    def training_autocast_dtype(self) -> torch.dtype | None:
        """The type of a training step's mixed arithmetic; None if the trained weights have that type already."""
        return self.compute.autocast_dtype if self.config.train_dtype == "fp32" else None

    @property
    def class_precision(self) -> str:
        """The `--precision` in which class images are sampled."""
        return "full" if self.options.precision == "full" else "auto"

    @property
    def class_images(self) -> ClassImages:
        """The cache of class images: beside the resumed run, or below `--output-dir` if only that has them."""
        beside = [self.options.resume_dir.parent] if self.options.resume_dir else []
        roots = [directory / CLASS_IMAGES for directory in (*beside, self.output_dir)]
        return ClassImages(
            root=roots[0],
            prompt=self.subject.class_prompt,
            base_sha256=self.base_sha256,
            sampling=with_sampler(self.sampling, self.config.class_sampler, self.config.class_steps),
            seed=self.options.seed,
            precision=str(sampling_compute(self.devices[0], self.class_precision).dtype).removeprefix("torch."),
            tokenizer=self.tokenizer_digest,
            model=asdict(self.settings.model),
        ).found_in(roots)


def resumed_run_options(options: argparse.Namespace) -> argparse.Namespace:
    """The options of the run in `--resume-dir`, with the flags that may change."""
    return resumed_options(
        options,
        script=SCRIPT,
        own_option=OWN_OPTION,
        rules=DREAMBOOTH,
        paths=("ckpt_path", "config", "instance_img_dir", "class_img_dir", "output_dir"),
        config=DreamBoothConfig,
    )


def find_moved(options: argparse.Namespace) -> argparse.Namespace:
    """A resumed run's options, with the places where base weights and photos are now, unless a flag names them."""
    record = read_yaml(options.resume_dir / RECORD)
    moved_run = moved(options.resume_dir, record)
    if "ckpt_path" not in options.typed and options.ckpt_path:
        options.ckpt_path = find_weights(options.ckpt_path, record.get("base_sha256"), moved_run, "--ckpt-path")
    for name, key in (("instance_img_dir", "photos"), ("class_img_dir", "class_photos")):
        if name not in options.typed and getattr(options, name):
            photos = section(record, key)
            setattr(options, name, find_photos_again(getattr(options, name), name, photos, moved_run, record))
    if not (options.output_dir and (options.output_dir / CLASS_IMAGES).is_dir()):
        options.output_dir = moved_run.now.parent
    return options


def plan_run(options: argparse.Namespace, origins: Mapping[str, str] = MappingProxyType({})) -> RunPlan:
    """Decides everything and checks what can be checked; writes nothing, except that `-r` repairs a tokenizer.

    `origins`: archives and URLs that the folders of photos were unpacked from, by option.
    """
    if is_helper_process():  # the first process has chosen these
        chosen = read_yaml(Path(os.environ[RUN_DIR_VARIABLE]) / RECORD)["options"]
        options = argparse.Namespace(**{**vars(options), **{name: chosen[name] for name in (*MEMORY_FLAGS, "seed")}})
    devices = parse_devices(options.devices)
    refuse_graphs_without_cuda(options.compile, devices[0])
    compute = training_compute(devices[0], options.precision)

    base = base_weights(options.ckpt_path)
    if base.is_dir() and not is_diffusers_directory(base):
        raise UserError(f"--ckpt-path takes one checkpoint to start from, and {base} is a directory")
    file = read_checkpoint(base)
    resumed = options.resume_dir
    yaml, settings = recorded_settings(resumed / RECORD) if resumed else settings_of(file, options.config)
    raise_unless_whole(file, settings.model)
    if settings.model.concat_channels:
        raise UserError(
            f"{base} is for inpainting or edits: its UNet takes more than latents, which training doesn't give"
        )
    tokenizer_dir = _tokenizer_directory(options, base, settings, checkpoint_info(file).tokenizer)

    height, width = snapped_size(settings.model, options.hw, (settings.sampling.height, settings.sampling.width))
    refuse_another_size(options, height, width, DREAMBOOTH)
    sampling = sampling_from(options, settings.sampling, height, width)
    refuse_too_large_images(settings.model, sampling, 1, compute.dtype, devices[0])
    config = config_from(options, settings.dreambooth, sampling)
    own_class_images = class_images_of(options, config, max(height, width))
    if own_class_images:
        config = replace(config, class_img_count=len(own_class_images))
    workload = workload_of(settings, config, sampling, devices, compute)
    config = fit_into_memory(options, config, workload, devices)
    training = f"training at {height} x {width} with --batch-size {config.batch_size}"
    refuse_too_large_training(dreambooth_need(workload, config), devices, training, "A smaller --hw or --batch-size")
    # Weights in bfloat16 are computed with in bfloat16.
    precision = "bf16-mixed" if config.train_dtype != "fp32" else training_precision(devices[0], options.precision)

    verdicts = inspect_directory(options.instance_img_dir, height, width)
    paths, instance_images = images_of(verdicts)
    log.info("%s of '%s' from %s", counted(len(paths), "photo"), options.class_name, options.instance_img_dir)
    tokenizer = read_tokenizer(tokenizer_dir, settings)
    is_unfamiliar = False
    if not resumed and not is_helper_process():
        previews = [prompt.replace("{class}", options.class_name) for prompt in config.preview_prompts]
        unknown = warn_of_unknown_words(settings, tokenizer, [options.class_name, *previews])
        strange = warn_of_photos(settings, f"the photos in {options.instance_img_dir}", lambda: instance_images)
        is_unfamiliar = unknown or strange
    return RunPlan(
        options=used_options(options, config, sampling, base, precision),
        output_dir=options.output_dir,
        base=base,
        base_sha256=sha256_of(base),
        photos={path.name: hash_file(path) for path in paths},
        yaml=yaml,
        settings=settings,
        tokenizer=tokenizer_dir,
        tokenizer_digest=tokenizer.digest,
        subject=Subject(options.class_name, without_caption(config.instance_prompts[0]), config.class_prompt),
        captions=captions_for(config, paths),
        config=config,
        sampling=sampling,
        photo_verdicts=verdicts,
        is_unfamiliar=is_unfamiliar,
        own_class_images=own_class_images,
        origins=dict(origins),
        instance_images=instance_images,
        devices=devices,
        compute=training_compute(devices[0], precision),  # as the run computes when it is resumed
    )


def refuse_before_photos(options: argparse.Namespace) -> None:
    """Before an archive of photos is fetched: raises `UserError` without a class or photos, or a run to resume."""
    if options.resume_dir:
        own_record(options.resume_dir, script=SCRIPT, own_option=OWN_OPTION)
        return
    missing = []
    if not options.class_name:
        missing.append('--class-name is needed: what the subject is, such as -c "water bottle"')
    if not options.instance_img_dir:
        missing.append("--instance-img-dir is needed: a folder of photos of the subject, such as -i data/bottle")
    if missing:
        raise UserError("; ".join(missing))


def config_from(options: argparse.Namespace, defaults: DreamBoothConfig, sampling: SamplingConfig) -> DreamBoothConfig:
    """The flags where they are set, the model's defaults elsewhere.

    `--sampler` and `--ddim-steps` apply to class images too, unless these have flags of their own. `--train-dtype bf16`
    or `bf16-rounded` alone selects adamw8bit, and `--optimizer adamw` alone fp32.
    """
    flags = {field.name: getattr(options, field.name, None) for field in fields(DreamBoothConfig)}
    flags["prior_loss_weight"] = options.lamb
    if options.prompt_templates:
        if {"prompt_templates", "instance_prompts"} <= {*options.typed}:
            raise UserError("--prompt-templates is a list in place of --instance-prompt: leave out one of the two")
        flags["instance_prompts"] = PROMPT_TEMPLATES[options.prompt_templates].load()
    flags["instance_prompts"] = flags["instance_prompts"] and tuple(flags["instance_prompts"])
    flags["preview_prompts"] = () if options.no_previews else options.preview_prompts and tuple(options.preview_prompts)
    if options.class_sampler is None and options.sampler is not None:
        flags |= {"class_sampler": sampling.sampler, "class_steps": options.class_steps or sampling.num_steps}
    flags["class_steps"] = flags["class_steps"] or options.ddim_steps
    kind = OPTIMIZERS[options.optimizer or defaults.optimizer].load()
    if (options.train_dtype or defaults.train_dtype) not in kind.state_bytes_per_weight:
        if options.optimizer is None:
            flags["optimizer"] = "adamw8bit"
        elif options.train_dtype is None:
            flags["train_dtype"] = "fp32"
    kind.raise_if_missing()
    flags |= _lora_flags(options, defaults)
    if options.learning_rate is None and kind.learning_rate is not None:
        flags["learning_rate"] = kind.learning_rate
    try:
        config = replace(defaults, **{name: value for name, value in flags.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.text_encoder_learning_rate and not config.train_text_encoder:
        raise UserError("--text-encoder-learning-rate is for a text encoder that is trained: add -t")
    return replace(config, class_img_count=0) if config.prior_loss_weight == 0 else config


def _lora_flags(options: argparse.Namespace, defaults: DreamBoothConfig) -> dict[str, Any]:
    """What `--lora` changes: another learning rate. Raises `UserError` for its flags without it."""
    if options.lora or (options.lora is None and defaults.lora):
        own = defaults.lora_learning_rate or LORA_LEARNING_RATE * defaults.learning_rate
        return {"learning_rate": own} if options.learning_rate is None else {}
    for name in ("lora_alpha", "lora_targets", "lora_dropout"):
        if name in options.typed:
            raise UserError(f"{flag_of(name)} is for adapters: add --lora RANK")
    return {}


def used_options(
    options: argparse.Namespace, config: DreamBoothConfig, sampling: SamplingConfig, base: Path, precision: str
) -> argparse.Namespace:
    """Every flag with the value that is used, to resume from any directory, also after defaults changed."""
    return argparse.Namespace(
        **{name: value for name, value in vars(options).items() if name != "typed"}
        | {name: value for name, value in asdict(config).items() if name in vars(options)}
        | sampling_flags(sampling)
        | {
            "lamb": config.prior_loss_weight,
            "ckpt_path": resolved(base),
            "config": options.config and resolved(options.config),
            "instance_img_dir": resolved(options.instance_img_dir),
            "class_img_dir": options.class_img_dir and resolved(options.class_img_dir),
            "output_dir": resolved(options.output_dir),
            "precision": precision,
        }
    )


def _tokenizer_directory(options: argparse.Namespace, base: Path, settings: Settings, digest: str) -> Path:
    """The directory of the base model's tokenizer; for a resumed run that of its copy, repaired if it is damaged."""
    if not options.resume_dir:
        return find_tokenizer(base, settings.tokenizer, digest)
    own = options.resume_dir / NAME
    expected = str(read_yaml(options.resume_dir / RECORD).get("tokenizer") or "")
    sources = [tokenizer_beside(base), *([ROOT / settings.tokenizer] if settings.tokenizer else [])]
    if not expected:  # an older run: its tokenizer is a copy of the base model's
        source = find_tokenizer(base, settings.tokenizer, digest)
        expected = tokenizer_digest(source if has_tokenizer(source) else own)
    if not is_helper_process():
        repair_tokenizer(options.resume_dir, expected, sources)
    return own

"""What a DreamBooth run will do: decided and checked before anything is computed or written."""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint.embedding import read_embedding, with_embeddings
from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.learned_words import Embedding, from_text
from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.lora import is_lora
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import hash_file
from ldm.choices import AUTO
from ldm.commands.dreambooth.batch_size import with_largest_batch
from ldm.commands.dreambooth.config import config_from, refuse_missing_timesteps
from ldm.commands.dreambooth.subject_files import captions_for, class_images_of, find_photos_again
from ldm.commands.dreambooth.vram import MEMORY_FLAGS, fit_into_memory, workload_of
from ldm.commands.elsewhere import find_weights, moved, sha256_of
from ldm.commands.enough_memory import dreambooth_need, refuse_too_large_images, refuse_too_large_training
from ldm.commands.options.resumable import DREAMBOOTH
from ldm.commands.record import section
from ldm.commands.resuming import RECORD, own_record, refuse_another_size, resumed_options
from ldm.commands.sampling.adapters import embeddings_of, recorded_embeddings
from ldm.commands.sampling.job import sampling_flags, sampling_from, with_sampler
from ldm.commands.unfamiliar import warn_of_photos, warn_of_unknown_words
from ldm.config import read_yaml
from ldm.data.drawn_prompts import DrawnPrompts, drawn_prompts, without_caption
from ldm.data.photos import images_of, inspect_directory
from ldm.data.verdicts import Verdict
from ldm.diffusion.latent_diffusion import count_weights
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.files import ROOT, counted
from ldm.nn.tokenizer import PromptTokenizer, tokenizer_digest, whole_words
from ldm.processes import RUN_DIR_VARIABLE, is_helper_process
from ldm.runtime.bfloat16 import cpu_precision
from ldm.runtime.compiling import refuse_graphs_without_cuda
from ldm.runtime.devices import Compute, parse_devices, sampling_compute, training_compute, training_precision
from ldm.runtime.models import (
    Settings,
    base_weights,
    read_tokenizer,
    recorded_settings,
    settings_of,
    snapped_size,
    tokenizer_knowing,
)
from ldm.runtime.tokenizers import NAME, find_tokenizer, has_tokenizer, repair_tokenizer, tokenizer_beside
from ldm.training.class_images import DIRECTORY as CLASS_IMAGES
from ldm.training.class_images import ClassImages
from ldm.training.dreambooth_config import DreamBoothConfig, Subject
from ldm.training.embedding import with_subject
from ldm.training.logs import refuse_unusable_loggers
from ldm.training.lora import count_adapter_weights
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
    embeddings: tuple[Embedding, ...]
    """The words of `--embedding`."""
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
    def words_of_class(self) -> tuple[Embedding, ...]:
        """Those of the words that the class prompt holds: class images are sampled with them."""
        prompt = self.subject.class_prompt
        return tuple(one for one in self.embeddings if whole_words([one.token]).search(prompt))

    @property
    def class_images(self) -> ClassImages:
        """The cache of class images: beside the resumed run, or below `--output-dir` if only that has them."""
        beside = [self.options.resume_dir.parent] if self.options.resume_dir else []
        roots = [directory / CLASS_IMAGES for directory in (*beside, self.output_dir)]
        words, digest = self.words_of_class, self.tokenizer_digest
        return ClassImages(
            root=roots[0],
            prompt=self.subject.class_prompt,
            base_sha256=self.base_sha256,
            sampling=with_sampler(self.sampling, self.config.class_sampler, self.config.class_steps),
            seed=self.options.seed,
            precision=str(sampling_compute(self.devices[0], self.class_precision).dtype).removeprefix("torch."),
            tokenizer=tokenizer_knowing(self.tokenizer, self.settings, words).digest if words else digest,
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
    if is_helper_process():
        options = _as_the_first_process_chose(options)
    devices = parse_devices(options.devices)
    refuse_graphs_without_cuda(options.compile, devices[0])
    training_compute(devices[0], options.precision)  # refuses what the device can't
    refuse_unusable_loggers(options.logger)

    base, file, yaml, settings = _base_model(options)
    flag = options.precision
    if flag == AUTO and devices[0].type == "cpu" and settings.bfloat16_on_cpu:
        flag = cpu_precision()
    compute = training_compute(devices[0], flag)
    resumed = options.resume_dir
    tokenizer_dir = _tokenizer_directory(options, base, settings, checkpoint_info(file).tokenizer)

    height, width = snapped_size(settings.model, options.hw, (settings.sampling.height, settings.sampling.width))
    refuse_another_size(options, height, width, DREAMBOOTH)
    sampling = sampling_from(options, settings.sampling, height, width)
    refuse_too_large_images(settings.model, sampling, 1, compute.dtype, devices[0])
    config = config_from(options, settings.dreambooth, sampling)
    _refuse_needless_rank(config, settings)
    refuse_missing_timesteps(config, settings.model.schedule.num_timesteps)
    own_class_images = class_images_of(options, config, max(height, width))
    if own_class_images:
        config = replace(config, class_img_count=len(own_class_images))
    workload = workload_of(settings, config, sampling, devices, compute)
    config = fit_into_memory(options, config, workload, devices)
    config = with_largest_batch(options, config, workload, devices)
    training = f"training at {height} x {width} with --batch-size {config.batch_size}"
    refuse_too_large_training(dreambooth_need(workload, config), devices, training, "A smaller --hw or --batch-size")
    # Weights in bfloat16 are computed with in bfloat16.
    precision = "bf16-mixed" if config.train_dtype != "fp32" else training_precision(devices[0], flag)

    verdicts = inspect_directory(options.instance_img_dir, height, width)
    paths, instance_images = images_of(verdicts)
    log.info("%s of '%s' from %s", counted(len(paths), "photo"), options.class_name, options.instance_img_dir)
    embeddings = _embeddings(options, config, file, settings)
    tokenizer = read_tokenizer(tokenizer_dir, settings)
    _refuse_unfitting_words(config, options.class_name, tokenizer, settings)
    is_unfamiliar = (
        not resumed
        and not is_helper_process()
        and _warn_of_what_is_unfamiliar(options, config, settings, tokenizer, instance_images)
    )
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
        embeddings=embeddings,
        instance_images=instance_images,
        devices=devices,
        compute=training_compute(devices[0], precision),  # as the run computes when it is resumed
    )


def _refuse_needless_rank(config: DreamBoothConfig, settings: Settings) -> None:
    """Raises `UserError` for adapters with more weights than the networks that they adapt."""
    parts = ("unet", "text_encoder") if config.train_text_encoder else ("unet",)
    whole = sum(count_weights(settings.model, PARTS[part]) for part in parts)
    if config.lora and (adapters := count_adapter_weights(settings.model, config)) >= whole:
        raise UserError(
            f"--lora {config.lora} trains {adapters:,} weights, and the model has {whole:,}: take a lower rank"
        )


def _embeddings(
    options: argparse.Namespace, config: DreamBoothConfig, file: CheckpointFile, settings: Settings
) -> tuple[Embedding, ...]:
    """The words of the base model and of `--embedding`; of a resumed run those in its record.

    Raises `UserError` for one that can't be used.
    """
    if resumed := options.resume_dir:
        record = section(read_yaml(resumed / RECORD), "words")
        return from_text({str(token): str(text) for token, text in record.items()}, resumed / RECORD)
    given = tuple(read_embedding(read_checkpoint(path), token) for path, token in embeddings_of(options))
    words = with_embeddings(file, given, settings.model).embeddings
    if words and config.train == "embedding":
        raise UserError(f"{file.path} has the word '{words[0].token}': --train embedding is for models without others")
    counts = Counter(one.token.lower() for one in words)
    if twice := [token for token, count in counts.items() if count > 1]:
        raise UserError(f"--embedding: two embeddings stand for '{twice[0]}'; name one of them FILE:TOKEN")
    return words


def _refuse_unfitting_words(
    config: DreamBoothConfig, class_name: str, tokenizer: PromptTokenizer, settings: Settings
) -> None:
    """Raises `UserError` if vectors that are trained have nothing to begin as, or prompts no room for them."""
    if config.train != "embedding":
        return
    if not tokenizer.token_ids(words := config.initial_words or class_name):
        raise UserError(f"--initial-words: {words[:40]!r} has no token whose vector could be the first")
    learned = with_subject(tokenizer, config, settings.model.text_encoder.vocab_size)
    for template in config.instance_prompts:
        prompt = Subject(class_name, template).instance_prompt
        if learned.cut_text(prompt):
            raise UserError(f"--vectors {config.vectors}: with so many '{prompt}' is longer than a prompt can be")


def _as_the_first_process_chose(options: argparse.Namespace) -> argparse.Namespace:
    """The options of another process, with what the first one has chosen or measured for all."""
    chosen = read_yaml(Path(os.environ[RUN_DIR_VARIABLE]) / RECORD)["options"]
    return argparse.Namespace(
        **{**vars(options), **{name: chosen[name] for name in (*MEMORY_FLAGS, "batch_size", "precision", "seed")}}
    )


def _base_model(options: argparse.Namespace) -> tuple[Path, CheckpointFile, dict[str, Any], Settings]:
    """The base model's path, file, YAML and settings. Raises `UserError` unless it is a whole model that can train."""
    base = base_weights(options.ckpt_path)
    if base.is_dir() and not is_diffusers_directory(base):
        raise UserError(f"--ckpt-path takes one checkpoint to start from, and {base} is a directory")
    file = read_checkpoint(base)
    if is_lora(file):
        raise UserError(f"{base} is a LoRA file: --ckpt-path takes the whole model that it changes")
    resumed = options.resume_dir
    yaml, settings = recorded_settings(resumed / RECORD) if resumed else settings_of(file, options.config)
    raise_unless_whole(file, settings.model)
    if settings.model.concat_channels:
        raise UserError(
            f"{base} is for inpainting or edits: its UNet takes more than latents, which training doesn't give"
        )
    return base, file, yaml, settings


def _warn_of_what_is_unfamiliar(
    options: argparse.Namespace,
    config: DreamBoothConfig,
    settings: Settings,
    tokenizer: PromptTokenizer,
    photos: Tensor,
) -> bool:
    """Warns of words and photos that a model of a small world was not trained with; whether there are any."""
    previews = [prompt.replace("{class}", options.class_name) for prompt in config.preview_prompts]
    unknown = warn_of_unknown_words(settings, tokenizer, [options.class_name, *previews])
    strange = warn_of_photos(settings, f"the photos in {options.instance_img_dir}", lambda: photos)
    return unknown or strange


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
            "embedding": recorded_embeddings(embeddings_of(options)),
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

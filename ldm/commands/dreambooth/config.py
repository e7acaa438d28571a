"""The configuration of a training: the flags where they are set, the model's YAML elsewhere."""

import argparse
import re
from dataclasses import fields, replace
from typing import Any

from ldm.choices import AUTO, EMBEDDING_LEARNING_RATE, LORA_LEARNING_RATE, OPTIMIZERS, PROMPT_TEMPLATES
from ldm.commands.dreambooth.prior import with_prior
from ldm.commands.options.resumable import flag_of
from ldm.diffusion.sampling import SamplingConfig
from ldm.errors import UserError
from ldm.training.dreambooth_config import DreamBoothConfig


def config_from(options: argparse.Namespace, defaults: DreamBoothConfig, sampling: SamplingConfig) -> DreamBoothConfig:
    """The flags where they are set, the model's defaults elsewhere.

    `--sampler` and `--ddim-steps` apply to class images too, unless these have flags of their own. `--train-dtype bf16`
    or `bf16-rounded` alone selects adamw8bit, and `--optimizer adamw` alone fp32.
    """
    flags = {field.name: getattr(options, field.name, None) for field in fields(DreamBoothConfig)}
    flags["prior_loss_weight"] = options.lamb
    if flags["batch_size"] == AUTO:  # chosen when the memory of a batch is known
        flags["batch_size"] = None
    if options.prompt_templates:
        if {"prompt_templates", "instance_prompts"} <= {*options.typed}:
            raise UserError("--prompt-templates is a list in place of --instance-prompt: leave out one of the two")
        flags["instance_prompts"] = PROMPT_TEMPLATES[options.prompt_templates].load()
    for name in ("instance_prompts", "min_snr_gamma", "timestep_range"):
        if (values := flags[name]) is not None:
            flags[name] = tuple(values)
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
    flags |= _lora_flags(options, defaults) | _embedding_flags(options, defaults)
    if options.learning_rate is None and kind.learning_rate is not None:
        flags["learning_rate"] = kind.learning_rate
    try:
        config = replace(defaults, **{name: value for name, value in flags.items() if value is not None})
    except ValueError as error:
        raise UserError(_with_flags(str(error))) from error
    for name, schedule in (("lr_cycles", "cosine-restarts"), ("lr_power", "polynomial")):
        if name in options.typed and config.lr_schedule != schedule:
            raise UserError(f"{flag_of(name)} is for --lr-schedule {schedule}, not {config.lr_schedule}")
    if config.text_encoder_learning_rate and not config.train_text_encoder:
        raise UserError("--text-encoder-learning-rate is for a text encoder that is trained: add -t")
    return with_prior(config, options)


def refuse_missing_timesteps(config: DreamBoothConfig, num_timesteps: int) -> None:
    """Raises `UserError` for a range of timesteps that a model with so many doesn't have."""
    try:
        config.timesteps_of(num_timesteps)
    except ValueError as error:
        raise UserError(_with_flags(str(error))) from error


def _with_flags(message: str) -> str:
    """A message about a config with flags in place of the options' names: `--fused-backward`, not `fused_backward`."""
    flags = {field.name: flag_of(field.name) for field in fields(DreamBoothConfig) if "_" in field.name}
    flags["prior_loss_weight"] = "--lamb"
    return re.sub(r"\w+", lambda word: flags.get(word[0], word[0]), message)


def _embedding_flags(options: argparse.Namespace, defaults: DreamBoothConfig) -> dict[str, Any]:
    """What `--train embedding` changes: the learning rate, no class images, fixed networks whatever the YAML says.

    Raises `UserError` for its flags without it, and for flags of networks and class images with it.
    """
    if (options.train or defaults.train) != "embedding":
        for name in ("vectors", "initial_words"):
            if name in options.typed:
                raise UserError(f"{flag_of(name)} is for textual inversion: add --train embedding")
        return {}
    for name, flag in (("lora", "--lora"), ("embedding", "--embedding"), ("train_text_encoder", "-t")):
        if getattr(options, name):
            raise UserError(f"--train embedding keeps all networks as they are: leave out {flag}")
    for name in ("lamb", "class_img_count", "class_img_dir"):
        if name in options.typed and getattr(options, name):
            raise UserError(f"{flag_of(name)}: class images have no effect on an embedding: their prompt has no sks")
    if options.prior not in (None, "none"):
        raise UserError(f"--train embedding leaves the class as it is: leave out --prior {options.prior}")
    fixed: dict[str, Any] = {"lora": 0, "train_text_encoder": False, "class_img_count": 0, "prior": "none"}
    own = defaults.embedding_learning_rate or EMBEDDING_LEARNING_RATE * defaults.learning_rate
    return fixed | ({"learning_rate": own} if options.learning_rate is None else {})


def _lora_flags(options: argparse.Namespace, defaults: DreamBoothConfig) -> dict[str, Any]:
    """What `--lora` changes: another learning rate. Raises `UserError` for its flags without it."""
    if options.lora or (options.lora is None and defaults.lora):
        own = defaults.lora_learning_rate or LORA_LEARNING_RATE * defaults.learning_rate
        return {"learning_rate": own} if options.learning_rate is None else {}
    for name in ("lora_alpha", "lora_targets", "lora_dropout", "dora"):
        if name in options.typed:
            raise UserError(f"{flag_of(name)} is for adapters: add --lora RANK")
    return {}

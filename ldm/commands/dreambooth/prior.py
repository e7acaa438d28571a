"""`--prior`: which flags belong to which, and what a run needs for its own before it trains."""

import argparse
import logging
import math
from dataclasses import replace
from pathlib import Path

import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.options.resumable import flag_of
from ldm.errors import UserError
from ldm.processes import is_helper_process
from ldm.progress import each
from ldm.training.base_prediction import Autocast, BasePredictions, PredictionInputs, predict_with_base
from ldm.training.base_pull import EVERY, BasePull, adapter_targets, base_targets
from ldm.training.dreambooth import DreamBooth
from ldm.training.dreambooth_config import DreamBoothConfig

log = logging.getLogger(__name__)

OWN_FLAGS = {
    "class-images": ("class_img_count", "class_img_dir", "class_sampler", "class_steps", "generation_batch_size"),
    "l2": ("l2_share",),
    "base-prediction": ("base_predictions",),
}
"""Flags that only one `--prior` has, by its name."""
WEIGHTED = ("class-images", "base-prediction")
"""The priors with a loss, of which `--lamb` is the weight."""


def with_prior(config: DreamBoothConfig, options: argparse.Namespace) -> DreamBoothConfig:
    """The config with what `--prior` implies; `--class-img-count 0` and `--lamb 0` are none.

    Raises `UserError` for flags of another prior than the one chosen, or if the prior chosen has nothing to work with.
    """
    if not options.resume_dir:  # the flags beside -r are compared with the run's own
        off = [name for name in ("class_img_count", "lamb") if name in options.typed and getattr(options, name) == 0]
        if off and "prior" not in options.typed:
            _refuse_other_flags("none", options, off)
            return _without(config)
        _refuse_other_flags(config.prior, options, off)
    if config.prior == "l2" and config.lora and config.dora:
        raise UserError("--prior l2 is not for --dora, whose product is not its distance to the base weights")
    works = {
        "class-images": config.class_img_count and config.prior_loss_weight,
        "l2": config.l2_share,
        "base-prediction": config.prior_loss_weight,
        "none": True,
    }
    if "prior" in options.typed and not works[config.prior]:
        needed = {"l2": "--l2-share", "base-prediction": "--lamb"}.get(config.prior, "--class-img-count and --lamb")
        raise UserError(f"--prior {config.prior} needs {needed} above 0; with 0 it is --prior none")
    if not works[config.prior]:
        return _without(config)
    if config.prior == "l2" and config.iterations <= EVERY:
        log.warning("--prior l2 acts after every %d updates: with %d it changes nothing", EVERY, config.iterations)
    return config if config.prior == "class-images" else replace(config, class_img_count=0)


def _without(config: DreamBoothConfig) -> DreamBoothConfig:
    return replace(config, prior="none", class_img_count=0)


def _refuse_other_flags(prior: str, options: argparse.Namespace, off: list[str]) -> None:
    """Raises `UserError` for a flag of another prior, or one of `off`, which turn priors off."""
    if off and prior != "none":
        raise UserError(f"{flag_of(off[0])} 0 is --prior none, not {prior}: leave out one of the two")
    typed = {*options.typed} - {*off}
    for other, names in OWN_FLAGS.items():
        for name in names:
            # Without --prior, how class images are sampled may be set for none of them.
            is_harmless = other == "class-images" and prior == "none" and "prior" not in typed
            if other != prior and name in typed and not is_harmless:
                raise UserError(f"{flag_of(name)} is for --prior {other}, not {prior}")
    if "lamb" in typed and prior not in WEIGHTED:
        raise UserError(f"--lamb is the weight of a loss on the class, which --prior {prior} doesn't have")


def add_prior(module: DreamBooth, base: Path, autocast: Autocast, *, most: float = math.inf) -> None:
    """Gives a module that is the base model still what its prior needs; `base` is the base model's checkpoint.

    `most`: so many predictions at most, for measurements.
    """
    config = module.config
    if config.prior == "l2":
        if config.lora:
            targets = adapter_targets(module.adapters)
        else:
            # Mapped once more: on the CPU the first mapping's tensors are the module's weights.
            targets = base_targets(dict(module.ldm.named_parameters()), read_checkpoint(base).tensors)
        module.base_pull = BasePull(targets, config.l2_share, module.seed)
    elif config.prior == "base-prediction":
        module.base_predictions = predictions_of(module, autocast, int(min(config.base_predictions, most)))


def predictions_of(module: DreamBooth, autocast: Autocast, count: int) -> BasePredictions:
    """The predictions of a module that is the base model still, as many at a time as a training step has samples."""
    inputs = PredictionInputs(module.instance_moments, module.ldm.schedule.num_timesteps, count, module.seed)
    with torch.no_grad(), autocast():
        context = module.class_context()
    batches = predict_with_base(module.ldm, context, inputs, 2 * module.config.batch_size, autocast)
    total = -(-inputs.count // (2 * module.config.batch_size))
    shown = each(batches, total, "base predictions", "batch", silent=is_helper_process())
    return BasePredictions(inputs, torch.cat([*shown]))

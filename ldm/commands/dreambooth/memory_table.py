"""`--memory-table`: which profile trains on a card of how many GB, predicted without any weights."""

import argparse
import logging
from dataclasses import replace

import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.choices import VRAM
from ldm.commands.app import logged
from ldm.commands.dreambooth.config import config_from
from ldm.commands.dreambooth.vram import USABLE, fixed_settings
from ldm.commands.sampling.job import sampling_from
from ldm.config import build_config, read_yaml
from ldm.runtime.models import DEFAULT_CONFIG, Settings, settings_of, snapped_size
from ldm.training.memory import CUDA_OVERHEAD, GIB, Chooser, Workload, profiles_with

log = logging.getLogger(__name__)

HEADER = ("| --vram | text encoder | predicted, GiB | profile |", "|---|---|---|---|")
NONE_FITS = "none fits: a smaller --hw or --batch-size needs less"


@logged
def memory_table(options: argparse.Namespace) -> None:
    """Prints a row for each size of a card, with the text encoder fixed and trained.

    The model is that of `--config`, else of `--ckpt-path`, else Stable Diffusion v1. Other flags of a training count
    too: `--hw`, `--batch-size`, and those that fix a part of the profile.
    """
    settings = _settings(options)
    height, width = snapped_size(settings.model, options.hw, (settings.sampling.height, settings.sampling.width))
    config = config_from(options, settings.dreambooth, sampling_from(options, settings.sampling, height, width))
    workload = Workload(
        settings.model, height, width, config.class_img_count > 0, torch.bfloat16, previews=bool(config.preview_prompts)
    )
    candidates = profiles_with(fixed_settings(options, config), keep_gradients=config.gradient_accumulation > 1)
    kinds = "a photo and a class image" if workload.with_class else "a photo"
    log.info("on one CUDA card, %d x %d pixels, %d times %s at a time", height, width, config.batch_size, kinds)
    log.info("each row is printed when it is known; all of them take minutes")
    for line in HEADER:
        log.info("%s", line)
    for trained in (False,) if config.train == "embedding" else (False, True):
        chooser = Chooser(workload, replace(config, train_text_encoder=trained))
        for size in VRAM[1:]:
            chosen = chooser.first_that_fits(candidates, int(USABLE * float(size) * GIB) - CUDA_OVERHEAD)
            peak = f"{(chosen[1].peak + CUDA_OVERHEAD) / GIB:.2f}" if chosen else ""
            kind = "trained" if trained else "fixed"
            log.info("| %s | %s | %s | %s |", size, kind, peak, chosen[0] if chosen else NONE_FITS)


def _settings(options: argparse.Namespace) -> Settings:
    if options.ckpt_path and not options.config:
        return settings_of(read_checkpoint(options.ckpt_path), None)[1]
    path = options.config or DEFAULT_CONFIG
    return build_config(Settings, read_yaml(path), str(path))

"""Publishes a checkpoint as the embedded model: the same weights, with the current YAML."""

import argparse
import copy
import logging

import torch

from ldm.checkpoint.loading import Placement, checkpoint_info, load_model
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer
from ldm.commands.record import plain, versions
from ldm.config import build_config, read_yaml
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.leftovers import remove_leftovers
from ldm.runtime.models import Settings

log = logging.getLogger(__name__)


def publish(options: argparse.Namespace) -> None:
    """Writes `ldm/assets/<the YAML's name>.safetensors`. The YAML's defaults may have changed since the training."""
    if options.ckpt_path is None:
        raise UserError("--ckpt-path is needed: the checkpoint of `python train.py diffusion` to publish")
    file = read_checkpoint(options.ckpt_path)
    info = checkpoint_info(file)
    measured = build_config(Settings, info.config, f"{file.path}: metadata").model.scale_factor
    yaml = copy.deepcopy(read_yaml(options.config))
    yaml["model"]["scale_factor"] = measured
    settings = build_config(Settings, yaml, str(options.config))
    model = load_model(file, settings.model, Placement(torch.device("cpu")))
    trained = {"updates": info.step, "run": info.options, "versions": info.versions}
    path = ROOT / "ldm" / "assets" / f"{options.config.stem}.safetensors"
    published = CheckpointInfo(
        config=yaml, seed=info.seed, tokenizer=info.tokenizer, options=plain(trained), versions=versions()
    )
    remove_leftovers(path.parent, deep=False)
    checkpoint_writer(path, model, published, SAVE_DTYPES[options.save_dtype])()
    log.info("%s: %s, %d updates", path, human_size(path.stat().st_size), info.step)

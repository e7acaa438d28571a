"""Trains a model's tokenizer on the captions of a dataset."""

import argparse

from ldm.config import build_config, read_yaml
from ldm.data.captioned import find_captioned
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.leftovers import remove_leftovers
from ldm.nn.tokenizer import FILES
from ldm.runtime.models import Settings
from ldm.training.tokenizer import train_tokenizer


def write_tokenizer(options: argparse.Namespace) -> None:
    """Writes it into the directory that the model's YAML names. Raises `UserError` if it has one."""
    if options.image_dir is None:
        raise UserError("--image-dir is needed: a folder of images with captions")
    settings = build_config(Settings, read_yaml(options.config), str(options.config))
    directory = ROOT / settings.tokenizer
    if taken := [name for name in FILES if (directory / name).exists()]:
        raise UserError(
            f"there is a {taken[0]} in {directory} already, and models that were trained with it need it; "
            f"name another `tokenizer` in {options.config}, or move it away"
        )
    remove_leftovers(directory.parent, deep=False)
    images = find_captioned(options.image_dir)
    captions = (caption for image in images for caption in image.captions)
    train_tokenizer(captions, settings.model.text_encoder.vocab_size, directory)

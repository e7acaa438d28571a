"""The flags of train.py, and which of them each stage takes."""

import argparse
from pathlib import Path

from ldm.choices import STEP_COMPILE_MODES, described
from ldm.commands.options.common import (
    BATCH,
    NON_NEGATIVE,
    UPDATES,
    WORKERS,
    add_resuming,
    add_saving,
    add_training_devices,
    command_parser,
    seed,
)
from ldm.commands.options.defaults import yaml_value
from ldm.commands.options.places import DIRECTORY, FILE, OUTPUT
from ldm.commands.options.resumable import flag_of
from ldm.errors import UserError
from ldm.files import ROOT

DEFAULT_CONFIG = ROOT / "configs" / "tiny.yaml"
TRAINING = {
    *("image_dir", "config", "resume_dir", "iterations", "save_every", "learning_rate", "batch_size", "seed"),
    *("output_dir", "devices", "precision", "workers", "logger", "drop_resume_state"),
}
STAGE_FLAGS = {
    "tokenizer": {"image_dir", "config"},
    "autoencoder": {*TRAINING, "ckpt_path", "save_dtype"},
    "diffusion": {*TRAINING, "ckpt_path", "save_dtype", "autoencoder", "compile"},
    "edit": {*TRAINING, "ckpt_path", "save_dtype", "compile"},
    "judge": TRAINING,
    "publish": {"ckpt_path", "config", "save_dtype"},
}
"""The stages, and the flags that each takes."""


def refuse_flags_without_effect(options: argparse.Namespace) -> None:
    """Raises `UserError` for a flag on the command line that its stage doesn't take."""
    for name in options.typed:
        if name != "stage" and name not in STAGE_FLAGS[options.stage]:
            raise UserError(f"{flag_of(name)} has no effect on `train.py {options.stage}`; leave it out")


def train_parser() -> argparse.ArgumentParser:
    """Flags of train.py."""
    parser = command_parser(
        "Trains a model from scratch, stage by stage, or a model that edits by instruction. The YAML of --config has\n"
        "its shape and hyperparameters.",
        "the stages, as for the embedded tiny model (docs/tiny-model.md):\n"
        "  python -m ldm.toyworld --dataset data/toyworld/images --count 64000 --size 64 --seed 0\n"
        "  python train.py tokenizer -i data/toyworld/images\n"
        "  python train.py autoencoder -i data/toyworld/images\n"
        "  python train.py diffusion -i data/toyworld/images "
        "--autoencoder runs/autoencoder-1/step-004400.safetensors\n"
        "  python train.py diffusion -r runs/diffusion-1            # resume a run\n"
        "  python train.py publish --ckpt-path runs/diffusion-1/step-005600.safetensors   # into ldm/assets\n"
        "a model that edits images by instruction, from any other (docs/edits.md):\n"
        "  python train.py edit -i data/toyworld/edits --ckpt-path ldm/assets/tiny.safetensors "
        "--config configs/tiny.yaml\n",
    )
    parser.add_argument("stage", choices=tuple(STAGE_FLAGS), help="what to train or write")
    _add_sources(parser.add_argument_group("inputs"))
    _add_training(parser.add_argument_group("training"))
    _add_placement(parser.add_argument_group("outputs and devices"))
    return parser


def _add_sources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-i",
        "--image-dir",
        type=DIRECTORY,
        metavar="DIR",
        help="images, in folders of any depth, with captions in metadata.jsonl or in a .txt beside each; for "
        "the stage `edit`: pairs of images, listed in metadata.jsonl or seeds.json (docs/edits.md)",
    )
    group.add_argument(
        "--config",
        type=FILE,
        default=DEFAULT_CONFIG,
        metavar="YAML",
        help="the model's shape and hyperparameters (default: configs/tiny.yaml, or what --ckpt-path carries)",
    )
    group.add_argument(
        "--autoencoder", type=FILE, metavar="FILE", help="for the stage `diffusion`: the checkpoint of the stage before"
    )
    group.add_argument(
        "--ckpt-path",
        type=FILE,
        metavar="FILE",
        help="start from these weights instead of random ones, as the stage `edit` always does; for `publish`: the "
        "checkpoint to publish",
    )
    add_resuming(group)


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--iterations", type=UPDATES, metavar="N", help=f"updates of the weights; {_from_yaml('iterations')}"
    )
    group.add_argument(
        "-s",
        "--save-every",
        type=UPDATES,
        metavar="N",
        help=f"write weights and samples every N updates; {_from_yaml('save_every')}",
    )
    group.add_argument("--learning-rate", type=NON_NEGATIVE, metavar="LR", help=_from_yaml("learning_rate"))
    group.add_argument(
        "--batch-size", type=BATCH, metavar="N", help=f"images per update and device; {_from_yaml('batch_size')}"
    )
    group.add_argument("--seed", type=seed, default=42, help="of all random numbers; -1: a random one (default: 42)")


def _from_yaml(name: str) -> str:
    """Each stage's default, as configs/tiny.yaml has it."""
    stages = [f"{stage} {yaml_value(f'{stage}_training.{name}')}" for stage in ("autoencoder", "diffusion", "judge")]
    edit = yaml_value(f"edit_training.{name}")
    return f"default: the YAML's; edit {edit}; configs/tiny.yaml: {', '.join(stages)}"


def _add_placement(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-o",
        "--output-dir",
        type=OUTPUT,
        default=Path("runs"),
        metavar="DIR",
        help="each run makes a new DIR/<stage>-<n>; encoded images are kept in DIR/latents (default: runs)",
    )
    add_training_devices(group)
    group.add_argument(
        "--compile",
        choices=STEP_COMPILE_MODES,
        default="auto",
        help=f"for the stages `diffusion` and `edit`. {described(STEP_COMPILE_MODES)} (default: auto)",
    )
    group.add_argument(
        "--workers",
        type=WORKERS,
        default=0,
        metavar="N",
        help="processes that read images (default: 0); 4 to 8 for a GPU",
    )
    add_saving(group)

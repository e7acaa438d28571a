"""The flags of dreambooth.py. Where a default is not given here, the model's YAML has it."""

import argparse
from pathlib import Path

from ldm.choices import SAMPLERS
from ldm.commands.options.common import (
    BATCH,
    CLASS_IMAGES,
    MODEL_DEFAULT,
    NON_NEGATIVE,
    STEPS,
    UPDATES,
    WARMUP,
    TypedParser,
    add_compile,
    add_resuming,
    add_sampling,
    add_saving,
    add_training_devices,
    class_name,
    command_parser,
    seed,
    words,
)
from ldm.commands.options.places import DIRECTORY, FILE, OUTPUT
from ldm.training.config import CHECKPOINTING_LEVELS, LR_SCHEDULES, OPTIMIZERS, TRAIN_DTYPES


def dreambooth_parser() -> argparse.ArgumentParser:
    """Flags of dreambooth.py."""
    parser = command_parser(
        'Teaches the model a subject from a few photos of it: after training, "sks <class>" means this subject.',
        "examples:\n"
        '  python dreambooth.py -c "water bottle" -i data/bottle -s 200\n'
        "  python dreambooth.py -r ckpts/water-bottle-1             # continue an interrupted run\n"
        "  python txt2img.py --ckpt-path ckpts/                     # then compare the checkpoints\n",
        TypedParser,
    )
    _add_subject(parser.add_argument_group("the subject"))
    _add_training(parser.add_argument_group("training"))
    _add_memory(parser.add_argument_group("how much memory training takes"))
    _add_prior_preservation(parser.add_argument_group("prior preservation"))
    _add_images(parser.add_argument_group("class images and previews"))
    _add_placement(parser.add_argument_group("where and how fast"))
    return parser


def _add_subject(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-c", "--class-name", type=class_name, metavar="WORDS", help='what the subject is, such as "water bottle"'
    )
    group.add_argument("-i", "--instance-img-dir", type=DIRECTORY, metavar="DIR", help="photos of the subject, 3 to 30")
    add_resuming(group)


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--iterations", type=UPDATES, metavar="N", help=f"updates of the weights; {MODEL_DEFAULT}")
    group.add_argument(
        "-s",
        "--save-every",
        type=UPDATES,
        metavar="N",
        help=f"write a checkpoint and previews every N updates; {MODEL_DEFAULT}",
    )
    group.add_argument("--learning-rate", type=NON_NEGATIVE, metavar="LR", help=MODEL_DEFAULT)
    group.add_argument("--lr-schedule", choices=LR_SCHEDULES, help=MODEL_DEFAULT)
    group.add_argument(
        "--warmup-steps", type=WARMUP, metavar="N", help=f"updates until the learning rate is reached; {MODEL_DEFAULT}"
    )
    group.add_argument("--weight-decay", type=NON_NEGATIVE, metavar="X", help=MODEL_DEFAULT)
    group.add_argument(
        "--max-grad-norm", type=NON_NEGATIVE, metavar="X", help=f"clip the gradient's norm; 0: don't; {MODEL_DEFAULT}"
    )
    group.add_argument(
        "--batch-size",
        type=BATCH,
        metavar="N",
        help=f"photos, and as many class images, per update and device; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "-t",
        "--train-text-encoder",
        action=argparse.BooleanOptionalAction,
        help=f"train the text encoder too; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help=f"also show mirrored images; off for lettering and faces; {MODEL_DEFAULT}",
    )
    group.add_argument("--seed", type=seed, default=42, help="of everything random; -1: a random one (default: 42)")


def _add_memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--gradient-checkpointing",
        nargs="?",
        choices=CHECKPOINTING_LEVELS,
        const="all",
        help="compute activations again in the backward pass instead of keeping them, those of the transformers or all "
        f"(the flag alone: all): less memory, slower, the same numbers; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        help=f"adamw8bit keeps its moments in 8 bits: 2 bytes a weight instead of 8; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--train-dtype",
        choices=TRAIN_DTYPES,
        help="type of the trained weights; bf16 halves them and their gradients, and takes --optimizer adamw8bit; "
        f"{MODEL_DEFAULT}",
    )
    group.add_argument(
        "--vram",
        choices=("auto", "24", "16", "12", "10", "8"),
        default="auto",
        help="train in a way that fits into so many GB: choose those of the three flags above that are not given "
        "(default: auto, into what is free on a CUDA device, where the model's own wishes stay, too; elsewhere nothing "
        "is chosen)",
    )


def _add_prior_preservation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-l", "--lamb", type=NON_NEGATIVE, metavar="X", help=f"weight of the class images' loss; {MODEL_DEFAULT}"
    )
    group.add_argument(
        "--class-img-count",
        type=CLASS_IMAGES,
        metavar="N",
        help=f"class images, drawn once and kept; 0: no prior preservation; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--generation-batch-size",
        "--gb",
        type=BATCH,
        metavar="N",
        help="class images drawn at a time; default: on CUDA as many as fit, up to 16, else the model's",
    )


def _add_images(group: argparse._ArgumentGroup) -> None:
    add_sampling(group)
    like_previews = "default: as previews where their flags are given, else the model's for class images"
    group.add_argument("--class-sampler", choices=SAMPLERS, help=f"of class images; {like_previews}")
    group.add_argument("--class-steps", type=STEPS, metavar="N", help=f"of class images; {like_previews}")
    group.add_argument(
        "--preview-prompt",
        type=words,
        action="extend",
        nargs="+",
        dest="preview_prompts",
        metavar="TEXT",
        help=f"drawn at every save with the same noise; {{class}} is replaced; {MODEL_DEFAULT}",
    )
    group.add_argument("--no-previews", action="store_true", help="draw none")


def _add_placement(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ckpt-path",
        type=FILE,
        metavar="FILE",
        help="base weights (default: the downloaded ones, else the tiny model)",
    )
    group.add_argument(
        "--config",
        type=FILE,
        metavar="YAML",
        help="the model's YAML, for weights that don't carry their own (default: configs/sd-v1.yaml)",
    )
    group.add_argument(
        "-o",
        "--output-dir",
        type=OUTPUT,
        default=Path("ckpts"),
        metavar="DIR",
        help="each run makes a new DIR/<class>-<n>; class images are kept in DIR/class-images (default: ckpts)",
    )
    add_training_devices(group)
    add_compile(group, ". Training steps are recorded on one CUDA device, unless it is off or in fp16-mixed")
    add_saving(group)

"""The commands' flags. Where a default is not given here, the model's YAML has it, so that each model has its own."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLER_NAMES = ("ddim", "plms", "dpm-solver")
DRAWING_PRECISIONS = ("auto", "full", "autocast", "bf16", "fp16")
TRAINING_PRECISIONS = ("auto", "full", "autocast", "bf16-mixed", "fp16-mixed")
MODEL_DEFAULT = "default: the model's"


def number(kind: type[int] | type[float], low: float, high: float = math.inf) -> Callable[[str], float]:
    """A parser of finite numbers from `low` to `high`."""
    bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"

    def parse(text: str) -> float:
        try:
            value = kind(text)
            fits = low <= value <= high and math.isfinite(value)
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(f"should be a {'whole ' * (kind is int)}number {bounds}, not '{text}'")
        return value

    return parse


COUNT = number(int, 1)
NATURAL = number(int, 0)
SEED = number(int, 0, 2**62)
STEPS = number(int, 1, 1000)
SHARE = number(float, 0, 1)
NON_NEGATIVE = number(float, 0)


class TypedParser(argparse.ArgumentParser):
    """Also tells in `options.typed` which options were given on the command line and are not defaults."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Parses once with the defaults and once without."""
        options = super().parse_args(args, namespace)
        defaults = {action: action.default for action in self._actions}
        for action in defaults:
            action.default = argparse.SUPPRESS
        typed = sorted(vars(super().parse_args(args)))
        for action, default in defaults.items():
            action.default = default
        options.typed = typed
        return options


def command_parser(
    description: str, epilog: str, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """A parser whose help keeps the lines of the epilog."""
    return kind(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--hw",
        type=COUNT,
        nargs="+",
        metavar="PX",
        help=f"height and width, or one number for a square; {MODEL_DEFAULT}",
    )
    group.add_argument("--sampler", choices=SAMPLER_NAMES, help=f"{MODEL_DEFAULT} (dpm-solver needs the fewest steps)")
    group.add_argument(
        "--ddim-steps", type=STEPS, metavar="N", help=f"denoising steps of any sampler, 1 to 1000; {MODEL_DEFAULT}"
    )
    group.add_argument(
        "--scale",
        type=number(float, -100, 100),
        metavar="S",
        help=f"guidance: how strictly the prompt is followed; 1 is none; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--ddim-eta", type=SHARE, metavar="ETA", help=f"fresh noise in each DDIM step, 0 (none) to 1; {MODEL_DEFAULT}"
    )


def _add_drawing(parser: argparse.ArgumentParser, what: str) -> None:
    group = parser.add_argument_group("what to draw")
    group.add_argument(
        "-p",
        "--prompt",
        action="extend",
        nargs="+",
        metavar="TEXT",
        help='one or several; default: a checkpoint\'s own subject, "a photo of sks <class>"',
    )
    group.add_argument("-n", "--negative-prompt", default="", metavar="TEXT", help="what to stay away from")
    group.add_argument(
        "-v",
        "--variations",
        type=COUNT,
        default=4,
        metavar="N",
        help="pictures per prompt, with the seeds SEED, SEED+1, ... (default: 4)",
    )
    group.add_argument(
        "--seed",
        type=SEED,
        default=42,
        help="the first picture's seed; the same seed gives the same picture whatever the batch size (default: 42)",
    )
    group = parser.add_argument_group("with what")
    group.add_argument(
        "-c",
        "--ckpt-path",
        type=Path,
        metavar="PATH",
        help="a checkpoint, or a directory: all checkpoints below it are compared "
        "(default: the downloaded weights, else the embedded tiny model)",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="the model's YAML, for a checkpoint that doesn't carry its own (default: configs/sd-v1.yaml)",
    )
    group = parser.add_argument_group("how to sample")
    _add_sampling(group)
    group = parser.add_argument_group("where and how fast")
    group.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help=f"each call makes a new DIR/{what}-<n> (default: outputs)",
    )
    group.add_argument("-b", "--batch-size", type=COUNT, metavar="N", help=f"pictures at a time; {MODEL_DEFAULT}")
    group.add_argument("-d", "--device", default="auto", help="auto, cpu, mps, cuda, cuda:1 or just 1 (default: auto)")
    group.add_argument(
        "--precision",
        choices=DRAWING_PRECISIONS,
        default="auto",
        help="full: float32; bf16, fp16: weights of that type; autocast: float32 weights, mixed arithmetic "
        "(default: auto, half precision on CUDA)",
    )


def txt2img_parser() -> argparse.ArgumentParser:
    """Flags of txt2img.py."""
    parser = command_parser(
        "Draws pictures from prompts, or compares all checkpoints below a directory with the same noise.",
        "examples:\n"
        '  python txt2img.py -p "a photo of a corgi"\n'
        "  python txt2img.py --ckpt-path ckpts/                     # compare: one row per checkpoint\n"
        '  python txt2img.py --ckpt-path ckpts/can-1 -p "sks can on the moon" "sks can in the snow" -v 2\n',
    )
    _add_drawing(parser, "txt2img")
    return parser


def img2img_parser() -> argparse.ArgumentParser:
    """Flags of img2img.py: those of txt2img.py and the picture to start from."""
    parser = command_parser(
        "Redraws a picture after a prompt, with the base model or with fine-tuned checkpoints.",
        "example:\n"
        '  python img2img.py -i sketch.png -p "a photo of sks can on a rock" -s 0.6 \\\n'
        "      --ckpt-path ckpts/can-1/step-00600.safetensors\n",
    )
    group = parser.add_argument_group("from what")
    group.add_argument(
        "-i",
        "--init-img",
        type=Path,
        required=True,
        metavar="FILE",
        help="the picture to start from; without --hw its shape is kept, at about the model's size",
    )
    group.add_argument(
        "-s",
        "--strength",
        type=SHARE,
        default=0.75,
        metavar="X",
        help="0 keeps the picture, 1 draws a new one (default: 0.75)",
    )
    _add_drawing(parser, "img2img")
    return parser


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
    _add_prior_preservation(parser.add_argument_group("prior preservation"))
    _add_pictures(parser.add_argument_group("class pictures and previews"))
    _add_placement(parser.add_argument_group("where and how fast"))
    return parser


def _add_subject(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-c", "--class-name", metavar="WORDS", help='what the subject is, such as "water bottle"')
    group.add_argument("-i", "--instance-img-dir", type=Path, metavar="DIR", help="photos of the subject, 3 to 30")
    group.add_argument(
        "-r",
        "--resume-dir",
        type=Path,
        metavar="DIR",
        help="continue the run of this directory exactly where it stopped, with its own options",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--iterations", type=COUNT, metavar="N", help=f"updates of the weights; {MODEL_DEFAULT}")
    group.add_argument(
        "-s",
        "--save-every",
        type=COUNT,
        metavar="N",
        help=f"write a checkpoint and previews every N updates; {MODEL_DEFAULT}",
    )
    group.add_argument("--learning-rate", type=NON_NEGATIVE, metavar="LR", help=MODEL_DEFAULT)
    group.add_argument("--lr-schedule", choices=("constant", "linear", "cosine"), help=MODEL_DEFAULT)
    group.add_argument(
        "--warmup-steps", type=NATURAL, metavar="N", help=f"updates until the learning rate is reached; {MODEL_DEFAULT}"
    )
    group.add_argument("--weight-decay", type=NON_NEGATIVE, metavar="X", help=MODEL_DEFAULT)
    group.add_argument(
        "--max-grad-norm", type=NON_NEGATIVE, metavar="X", help=f"clip the gradient's norm; 0: don't; {MODEL_DEFAULT}"
    )
    group.add_argument(
        "--batch-size",
        type=COUNT,
        metavar="N",
        help=f"photos, and as many class pictures, per update and device; {MODEL_DEFAULT}",
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
        help=f"also show mirrored pictures; off for lettering and faces; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--gradient-checkpointing",
        action=argparse.BooleanOptionalAction,
        help=f"less memory, about a quarter slower; {MODEL_DEFAULT}",
    )
    group.add_argument("--seed", type=SEED, default=42, help="of everything random (default: 42)")


def _add_prior_preservation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-l", "--lamb", type=NON_NEGATIVE, metavar="X", help=f"weight of the class pictures' loss; {MODEL_DEFAULT}"
    )
    group.add_argument(
        "--class-img-count",
        type=NATURAL,
        metavar="N",
        help=f"class pictures, drawn once and kept; 0: no prior preservation; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--generation-batch-size",
        "--gb",
        type=COUNT,
        metavar="N",
        help=f"class pictures drawn at a time; {MODEL_DEFAULT}",
    )


def _add_pictures(group: argparse._ArgumentGroup) -> None:
    _add_sampling(group)
    group.add_argument(
        "--preview-prompt",
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
        type=Path,
        metavar="FILE",
        help="base weights (default: the downloaded ones, else the tiny model)",
    )
    group.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="the model's YAML, for weights that don't carry their own (default: configs/sd-v1.yaml)",
    )
    group.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        default=Path("ckpts"),
        metavar="DIR",
        help="each run makes a new DIR/<class>-<n>; class pictures are kept in DIR/class-images (default: ckpts)",
    )
    group.add_argument(
        "-d", "--devices", default="auto", help="auto, cpu, mps, cuda, or several GPUs such as 0,1 (default: auto)"
    )
    group.add_argument(
        "--precision",
        choices=TRAINING_PRECISIONS,
        default="auto",
        help="full: float32; autocast: the better mixed one (default: auto, bf16-mixed where the hardware has it)",
    )
    add_saving(group)


def add_saving(group: argparse._ArgumentGroup) -> None:
    """What all trainings write."""
    group.add_argument(
        "--save-dtype",
        choices=("fp16", "bf16", "fp32"),
        default="fp16",
        help="type of the saved weights (default: fp16)",
    )
    group.add_argument(
        "--logger", choices=("tensorboard", "csv", "none"), default="tensorboard", help="(default: tensorboard)"
    )

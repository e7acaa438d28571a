"""What flags are made of: their types and the groups that several commands share."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLER_NAMES = ("ddim", "plms", "dpm-solver")
ENCODER_NAMES = ("toyworld-judge", "clip-dino")
DRAWING_PRECISIONS = ("auto", "full", "autocast", "bf16", "fp16")
TRAINING_PRECISIONS = ("auto", "full", "autocast", "bf16-mixed", "fp16-mixed")
COMPILE_MODES = ("auto", "off", "graphs", "full")
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


def words(text: str) -> str:
    """A parser of text for people and for files: what the terminal sent may be in another encoding than it says."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not valid UTF-8; set the terminal to it, or leave accents out") from None
    return text


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


def add_sampling(group: argparse._ArgumentGroup) -> None:
    """How pictures are drawn."""
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


def add_compile(group: argparse._ArgumentGroup, more: str = "") -> None:
    """How the UNet's calls are made faster; `more` is said of it."""
    group.add_argument(
        "--compile",
        choices=COMPILE_MODES,
        default="auto",
        help="how to call the UNet faster. graphs: as recorded CUDA graphs; full: by torch.compile, taking minutes "
        "to begin and rounds otherwise, so for thousands of pictures; off: plainly (default: auto, graphs for long "
        f"jobs on CUDA){more}",
    )


def add_resuming(group: argparse._ArgumentGroup) -> None:
    """Which training goes on."""
    group.add_argument(
        "-r",
        "--resume-dir",
        type=Path,
        metavar="DIR",
        help="continue the run of this directory exactly where it stopped, with its own options",
    )


def add_training_devices(group: argparse._ArgumentGroup) -> None:
    """On what a training computes, and how exactly."""
    group.add_argument(
        "-d",
        "--devices",
        default="auto",
        help="auto, cpu, mps, cuda, several GPUs such as 0,1, or cpu,cpu (default: auto)",
    )
    group.add_argument(
        "--precision",
        choices=TRAINING_PRECISIONS,
        default="auto",
        help="full: float32; autocast: the better mixed one (default: auto, bf16-mixed where the hardware has it)",
    )


def add_saving(group: argparse._ArgumentGroup) -> None:
    """What all trainings write."""
    group.add_argument(
        "--drop-resume-state",
        action=argparse.BooleanOptionalAction,
        help="after the last update remove the resume state, often the largest file: the run can't go on then",
    )
    group.add_argument(
        "--save-dtype",
        choices=("fp16", "bf16", "fp32"),
        default="fp16",
        help="type of the saved weights (default: fp16)",
    )
    group.add_argument(
        "--logger", choices=("tensorboard", "csv", "none"), default="tensorboard", help="(default: tensorboard)"
    )

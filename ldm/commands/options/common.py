"""What flags are made of: their types and the groups that several commands share."""

import argparse
import logging
import math
import secrets
from collections.abc import Callable
from typing import Any, NoReturn

from ldm.bounds import (
    LARGEST_FACTOR,
    LARGEST_SCALE,
    LARGEST_SIDE,
    MOST_CLASS_IMAGES,
    MOST_STEPS,
    MOST_TOGETHER,
    MOST_UPDATES,
)
from ldm.choices import SAMPLERS
from ldm.commands.options.places import DIRECTORY
from ldm.interruption import STATUS
from ldm.processes import DIED
from ldm.prompts import bare_class_name, class_name_fault, prompt_fault
from ldm.terminal import visible

log = logging.getLogger(__name__)

EXIT_STATUSES = f"""exit status:
  0 done; 2 a mistake that you can mend; {DIED} anything unexpected;
  {STATUS} stopped by a signal (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2), to be continued: see docs/cluster.md
"""
"""Said by every command's help."""

SAMPLING_PRECISIONS = ("auto", "full", "autocast", "bf16", "fp16")
TRAINING_PRECISIONS = ("auto", "full", "autocast", "bf16-mixed", "fp16-mixed")
COMPILE_MODES = ("auto", "off", "graphs", "full")
MODEL_DEFAULT = "default: the model's"

MOST_IMAGES = 100_000
"""That one call draws: each is planned before the first is drawn."""


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
            raise argparse.ArgumentTypeError(
                f"should be a {'whole ' * (kind is int)}number {bounds}, not '{text[:40]}'"
            )
        return value

    return parse


UPDATES = number(int, 1, MOST_UPDATES)
WARMUP = number(int, 0, MOST_UPDATES)
BATCH = number(int, 1, MOST_TOGETHER)
IMAGES = number(int, 1, MOST_IMAGES)
CLASS_IMAGES = number(int, 0, MOST_CLASS_IMAGES)
SIDE = number(int, 1, LARGEST_SIDE)
WORKERS = number(int, 0, 256)
STEPS = number(int, 1, MOST_STEPS)
SHARE = number(float, 0, 1)
NON_NEGATIVE = number(float, 0, LARGEST_FACTOR)

RANDOM_SEED = -1
LARGEST_SEED = 2**62


def seed(text: str) -> int:
    """A parser of seeds: -1 is a random one, which is said and recorded, so that the call can be made again."""
    value = int(number(int, RANDOM_SEED, LARGEST_SEED)(text))
    if value == RANDOM_SEED:
        value = secrets.randbelow(2**32)
        log.info("seed: %d, chosen at random; --seed %d makes the same again", value, value)
    return value


def words(text: str) -> str:
    """A parser of text for people and for files: what the terminal sent may be in another encoding than it says."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not valid UTF-8; set the terminal to it, or leave accents out") from None
    if fault := prompt_fault(text):
        raise argparse.ArgumentTypeError(fault)
    return text


def class_name(text: str) -> str:
    """A parser of class names: what prompts say before them by themselves is left out."""
    name = bare_class_name(text)
    if fault := class_name_fault(name):
        raise argparse.ArgumentTypeError(fault)
    if name != text:
        log.info("class: '%s' instead of '%s'; prompts bring an article, or sks, by themselves", name, text)
    return words(name)


class TypedParser(argparse.ArgumentParser):
    """Also tells in `options.typed` which options were given on the command line and are not defaults."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Parses once with the defaults and once without."""
        options = super().parse_args(args, namespace)
        before = {action: (action.default, action.type, action.choices) for action in self._actions}
        for action in before:  # values were checked, and notes on them given, the first time
            action.default, action.type, action.choices = argparse.SUPPRESS, None, None
        typed = sorted(vars(super().parse_args(args)))
        for action, kept in before.items():
            action.default, action.type, action.choices = kept
        options.typed = typed
        return options

    def error(self, message: str) -> NoReturn:
        """Says what is wrong; words that were typed may hold anything."""
        super().error(visible(message))


def command_parser(
    description: str, epilog: str, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """A parser whose help keeps the lines of the epilog, which ends with the exit statuses."""
    epilog = f"{epilog.rstrip()}\n\n{EXIT_STATUSES}"
    return kind(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_sampling(group: argparse._ArgumentGroup) -> None:
    """How images are drawn."""
    group.add_argument(
        "--hw",
        type=SIDE,
        nargs="+",
        metavar="PX",
        help=f"height and width, or one number for a square; {MODEL_DEFAULT}",
    )
    about = "; ".join(f"{name}: {choice.about}" for name, choice in SAMPLERS.items())
    group.add_argument("--sampler", choices=SAMPLERS, help=f"{about}; {MODEL_DEFAULT}")
    group.add_argument(
        "--ddim-steps",
        type=STEPS,
        metavar="N",
        help=f"denoising steps of any sampler, 1 to {MOST_STEPS}; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--scale",
        type=number(float, -LARGEST_SCALE, LARGEST_SCALE),
        metavar="S",
        help=f"guidance: how strictly the prompt is followed; 1 is none; {MODEL_DEFAULT}",
    )
    group.add_argument(
        "--ddim-eta",
        type=SHARE,
        metavar="ETA",
        help="fresh noise in each step of ddim (default: the model's) and euler-ancestral (default: 1), 0 (none) to 1",
    )


def add_compile(group: argparse._ArgumentGroup, more: str = "") -> None:
    """How the UNet's calls are made faster; `more` is said of it."""
    group.add_argument(
        "--compile",
        choices=COMPILE_MODES,
        default="auto",
        help="how to call the UNet faster. graphs: as recorded CUDA graphs; full: by torch.compile, taking minutes "
        "to begin and rounds otherwise, so for thousands of images; off: plainly (default: auto, graphs for long "
        f"jobs on CUDA){more}",
    )


def add_resuming(group: argparse._ArgumentGroup) -> None:
    """Which training goes on."""
    group.add_argument(
        "-r",
        "--resume-dir",
        type=DIRECTORY,
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

"""What the commands' flags share: their types, their parser, and groups of them."""

import argparse
import logging
import math
import secrets
from collections.abc import Callable
from typing import Any, NoReturn

from ldm.bounds import (
    HIGHEST_RANK,
    LARGEST_FACTOR,
    LARGEST_SCALE,
    LARGEST_SIDE,
    MOST_CLASS_IMAGES,
    MOST_STEPS,
    MOST_TOGETHER,
    MOST_UPDATES,
    MOST_VECTORS,
)
from ldm.choices import AUTO, COMPILE_MODES, LOGGERS, SAMPLERS, SAVE_DTYPES, SPACINGS, TRAINING_PRECISIONS, described
from ldm.commands.options.defaults import DefaultsFormatter, model_default, yaml_value
from ldm.commands.options.places import DIRECTORY
from ldm.interruption import STATUS
from ldm.processes import DIED
from ldm.prompts import bare_class_name, class_name_fault, prompt_fault
from ldm.terminal import visible

log = logging.getLogger(__name__)

EXIT_STATUSES = f"""exit status:
  0 done; 2 a mistake that you can correct; {DIED} anything unexpected;
  {STATUS} stopped by a signal (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2), can be resumed: see docs/cluster.md
"""
"""The end of every command's help."""

MOST_IMAGES = 100_000
"""Images of one call: all are planned before the first is sampled."""


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
PREDICTIONS = number(int, 1, MOST_CLASS_IMAGES)
SIDE = number(int, 1, LARGEST_SIDE)
WORKERS = number(int, 0, 256)
STEPS = number(int, 1, MOST_STEPS)
CLIP_SKIP = number(int, 1, 256)
SHARE = number(float, 0, 1)
RANK = number(int, 0, HIGHEST_RANK)
VECTORS = number(int, 1, MOST_VECTORS)
DROPOUT = number(float, 0, 0.9)
NON_NEGATIVE = number(float, 0, LARGEST_FACTOR)


def batch_size(text: str) -> float | str:
    """A parser of the number of images in a batch, or `auto`."""
    return AUTO if text == AUTO else BATCH(text)


RANDOM_SEED = -1
LARGEST_SEED = 2**62


def seed(text: str) -> int:
    """A parser of seeds: -1 becomes a random one, which is logged and recorded, so that the call can be repeated."""
    value = int(number(int, RANDOM_SEED, LARGEST_SEED)(text))
    if value == RANDOM_SEED:
        value = secrets.randbelow(2**32)
        log.info("seed: %d, chosen at random; --seed %d makes the same again", value, value)
    return value


def words(text: str) -> str:
    """A parser of prompts and names; the terminal may have sent bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not valid UTF-8; set the terminal to it, or leave accents out") from None
    if fault := prompt_fault(text):
        raise argparse.ArgumentTypeError(fault)
    return text


def class_name(text: str) -> str:
    """A parser of class names; an article or "sks", which the prompts add themselves, is left out."""
    name = bare_class_name(text)
    if fault := class_name_fault(name):
        raise argparse.ArgumentTypeError(fault)
    if name != text:
        log.info("class: '%s' instead of '%s'; prompts add an article or sks", name, text)
    return words(name)


def margins(text: str) -> str:
    """A parser of four numbers of pixels: left, top, right and bottom."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or any(not part.removeprefix("-").isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            "should be four whole numbers of pixels for left, top, right and bottom, such as 64,0,64,0, "
            f"not '{text[:40]}'"
        )
    if negative := [part for part in parts if part.startswith("-") and part.strip("-0")]:
        raise argparse.ArgumentTypeError(
            f"adds pixels, and {negative[0][:20]} would take some away; crop the image, and give numbers from 0 on"
        )
    if too_large := [part for part in parts if len(part) > 9 or int(part) > LARGEST_SIDE]:
        raise argparse.ArgumentTypeError(f"can add {LARGEST_SIDE:,} pixels to a side at most, not {too_large[0][:20]}")
    return ",".join(str(abs(int(part))) for part in parts)


def loggers(text: str) -> str:
    """A parser of the names of loggers, separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if any(name not in LOGGERS for name in names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"should be one or more of {', '.join(LOGGERS)}, not '{text[:40]}'")
    return ",".join(names)


class TypedParser(argparse.ArgumentParser):
    """Also lists in `options.typed` the options that were given on the command line. Names are not abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Parses once with the defaults and once without."""
        options = super().parse_args(args, namespace)
        before = {action: (action.default, action.type, action.choices) for action in self._actions}
        for action in before:  # the first time has checked the values, and logged notes on them
            action.default, action.type, action.choices = argparse.SUPPRESS, None, None
        typed = sorted(vars(super().parse_args(args)))
        for action, kept in before.items():
            action.default, action.type, action.choices = kept
        options.typed = typed
        return options

    def format_usage(self) -> str:
        """One line; the help lists the flags by groups."""
        words = [self.prog]
        for action in self._get_positional_actions():
            word = f"{{{','.join(action.choices)}}}" if action.choices else str(action.metavar or action.dest.upper())
            words.append(f"[{word}]" if action.nargs == "?" else word)
        return f"usage: {' '.join(words)} [options]\n"

    def format_help(self) -> str:
        """The usage in one line, then argparse's help."""
        self.usage = self.format_usage().removeprefix("usage: ").rstrip()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Prints the usage, the error with control characters escaped, and a hint; ends with exit status 2."""
        start = "" if self.prog.startswith("bash ") else "python "
        self.exit(2, f"{self.format_usage()}error: {visible(message)}\nsee {start}{self.prog} --help\n")


def command_parser(description: str, epilog: str) -> TypedParser:
    """A parser whose help ends with the epilog and the exit statuses."""
    epilog = f"{epilog.rstrip()}\n\n{EXIT_STATUSES}"
    return TypedParser(description=description, epilog=epilog, formatter_class=DefaultsFormatter)


def add_sampling(group: argparse._ArgumentGroup) -> None:
    """Adds the flags for sampling images."""
    group.add_argument(
        "--hw",
        type=SIDE,
        nargs="+",
        metavar="PX",
        help=f"height and width, or one number for a square; {model_default('sampling.height', 'sampling.width')}",
    )
    group.add_argument(
        "--sampler", choices=SAMPLERS, help=f"{described(SAMPLERS)}; {model_default('sampling.sampler')}"
    )
    group.add_argument(
        "--ddim-steps",
        type=STEPS,
        metavar="N",
        help=f"denoising steps of any sampler, 1 to {MOST_STEPS}; {model_default('sampling.num_steps')}",
    )
    group.add_argument(
        "--scale",
        type=number(float, -LARGEST_SCALE, LARGEST_SCALE),
        metavar="S",
        help=f"guidance scale: how strictly the prompt is followed; 1: no guidance; "
        f"{model_default('sampling.guidance_scale')}",
    )
    group.add_argument(
        "--ddim-eta",
        type=SHARE,
        metavar="ETA",
        help="fresh noise in each step of ddim, euler-ancestral, dpm-solver-sde and -2m-sde, 0 (none) to 1; "
        f"default: of ddim {yaml_value('sampling.eta')}, of the others 1",
    )
    group.add_argument(
        "--spacing",
        choices=SPACINGS,
        help=f"which noise levels the steps visit. {described(SPACINGS)}; {model_default('sampling.spacing')}",
    )
    group.add_argument(
        "--guidance-rescale",
        type=SHARE,
        metavar="X",
        help="against overexposed images of strong guidance, 0 (off) to 1, such as 0.7; "
        f"{model_default('sampling.guidance_rescale')}",
    )


def add_compile(group: argparse._ArgumentGroup, more: str = "") -> None:
    """Adds `--compile`; `more` is the end of its help."""
    group.add_argument(
        "--compile",
        choices=COMPILE_MODES,
        default="auto",
        help=f"how to call the UNet faster. {described(COMPILE_MODES)} (default: auto){more}",
    )


def add_resuming(group: argparse._ArgumentGroup) -> None:
    """Adds `--resume-dir` of a training."""
    group.add_argument(
        "-r",
        "--resume-dir",
        type=DIRECTORY,
        metavar="DIR",
        help="resume the run in this directory exactly where it stopped, with its own options",
    )


def add_training_devices(group: argparse._ArgumentGroup) -> None:
    """Adds the flags for the devices and types in which a training computes."""
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
        help=f"{described(TRAINING_PRECISIONS)} (default: auto)",
    )


def add_saving(group: argparse._ArgumentGroup) -> None:
    """Adds the flags for what all trainings write."""
    group.add_argument(
        "--drop-resume-state",
        action=argparse.BooleanOptionalAction,
        help="after the last update remove the resume state, often the largest file; the run can't be resumed then",
    )
    group.add_argument(
        "--save-dtype", choices=SAVE_DTYPES, default="fp16", help="type of the saved weights (default: fp16)"
    )
    group.add_argument(
        "--logger",
        type=loggers,
        default="tensorboard",
        metavar="NAME",
        help=f"one or more, such as tensorboard,csv. {described(LOGGERS)} (default: tensorboard)",
    )

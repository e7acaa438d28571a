"""Random command lines: flags of the parsers themselves, with likely values and odd ones.

Whatever they say, a command should do it or say what is wrong. `tests/commands/test_random_commands.py` runs them in
this process, up to where something would be computed; `benchmarks/reliability_campaign/command_lines.py` runs whole
commands.
"""

import argparse
import os
import random
from dataclasses import dataclass
from pathlib import Path

from ldm.commands.options.common import class_name, words
from ldm.commands.options.places import DIRECTORY, FILE, OUTPUT, place
from ldm.commands.options.recorded import PARSERS
from ldm.commands.options.train import STAGE_FLAGS

NUMBERS = (
    *("0", "1", "2", "-1", "-2", "3.5", "1e9", "1e400", "-0.0", "nan", "inf", "-inf", "1" + "0" * 30, "9" * 5000),
    *("64", "20000", "65536", "100000000", "0x10", "1_0", "", " 7 ", "seven", "\u0663", "\u00b2"),
)
WORDS = (
    *("", " ", "a cat", "a can", "sks can", "the", "sks", "{class}", "{", "${class}", "%s", "%(x)s", "-", "--", "'"),
    *("a\nerror: all fine", "\x1b[2J", "\u202egpj", "caf\udce9", "\ud83d", "\U0001f600", "x" * 5000, "=1+1", "../.."),
    *("\u0645\u0627\u0621", "caf\u00e9", "con", "*"),
)
PLACES = (
    *("", ".", "..", "nowhere", "nowhere/at/all", "/dev/null", "/dev/zero", "/", "/proc/self/mem", "x" * 300, "a/b"),
    *("a/" * 3000, "caf\udce9", "a\nb", "-x", "~", "$HOME", "pipe", "empty", "text", "text/below", "hostile.yaml"),
    *("loop", "run"),
)
NAMES = (
    *("auto", "cpu", "cuda", "cuda:99", "cpu,cpu", "cpu,cpu,", "mps", "0,0", "meta", "xla", ",", "full", "bf16"),
    *("fp16", "none", "true"),
)
ODD = (*NUMBERS, *WORDS, *PLACES, *NAMES)
"""Values that somebody, or some script, may type."""

SMALL = {
    "txt2img": ("-v", "1", "--ddim-steps", "1", "-b", "1"),
    "img2img": ("-v", "1", "--ddim-steps", "1", "-b", "1"),
    "evaluate": ("-v", "1", "--ddim-steps", "1", "-p", "a photo of sks can"),
    "dreambooth": ("--iterations", "1", "--class-img-count", "1", "--no-previews"),
    "train": ("--iterations", "1"),
}
"""Keeps valid command lines quick. Random flags come after these and override them."""
WITHOUT_RUN = (["tokenizer"], ["publish"])
"""Stages of train.py that take no `--iterations` and make no directory."""


@dataclass(frozen=True)
class Files:
    """What valid command lines read."""

    tiny: Path
    photos: Path
    ckpts: Path
    images: Path
    things: Path
    config: Path
    autoencoder: Path


def random_command_line(chance: random.Random, files: Files) -> list[str]:
    """A command and its words; most are nearly valid, because a line with one mistake goes furthest."""
    script = chance.choice([*PARSERS])
    command = script.removesuffix(".py")
    line = [command, *([chance.choice([*STAGE_FLAGS])] if command == "train" else [])]
    if chance.random() < 0.9:
        line += _needed(command, files)
    runs = line[1:2] not in WITHOUT_RUN
    line += SMALL[command] if runs else []
    actions = [one for one in PARSERS[script]()._actions if one.option_strings and one.dest != "help"]
    for action in chance.sample(actions, chance.choice((0, 1, 1, 2, 3))):
        line += _typed(action, chance, files)
    if chance.random() < 0.05:
        line.insert(chance.randrange(1, len(line) + 1), chance.choice((*ODD, "--help", "--no-such-flag")))
    return [*line, "-o", "out"] if runs else line


def write_odd_places(directory: Path) -> None:
    """Makes what some of the `PLACES` name."""
    os.mkfifo(directory / "pipe")
    (directory / "empty").mkdir()
    (directory / "text").write_text("no image, no YAML: [")
    (directory / "hostile.yaml").write_text("a: &a [*a]\n")
    (directory / "loop").symlink_to("loop")
    (directory / "run").mkdir()
    (directory / "run" / "run.yaml").write_text("options: {class_name: 7, variations: x, stage: diffusion}\n")


def _needed(command: str, files: Files) -> list[str]:
    flags = {
        "txt2img": ("-c", files.tiny),
        "img2img": ("-c", files.tiny, "-i", files.photos / "0.png"),
        "evaluate": ("-c", files.ckpts, "--encoder", "toyworld-judge"),
        "dreambooth": ("-c", "can", "-i", files.photos, "--ckpt-path", files.tiny),
        "train": ("-i", files.images, "--config", files.config),
    }
    return [*map(str, flags[command])]


def _typed(action: argparse.Action, chance: random.Random, files: Files) -> list[str]:
    flag = chance.choice(action.option_strings)
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return [flag]
    likely, odd = _values(action, files)
    count = chance.choice((1, 1, 1, 2, 3)) if action.nargs in ("+", "*") else 1
    values = [
        chance.choice(likely if draw < 0.6 else odd if draw < 0.95 else ODD)
        for draw in (chance.random() for _ in range(count))
    ]
    return [f"{flag}={values[0]}"] if flag.startswith("--") and chance.random() < 0.3 else [flag, *values]


def _values(action: argparse.Action, files: Files) -> tuple[list[str], tuple[str, ...]]:
    """Values of a flag that are valid, or nearly, and odd ones of its kind."""
    if action.choices:
        return [*map(str, action.choices)], NAMES
    if action.type in (place, FILE, DIRECTORY, OUTPUT):
        return [*map(str, vars(files).values()), str(files.photos / "0.png"), "out", "."], PLACES
    if action.type in (words, class_name):
        return ["can", "water bottle", "a photo of sks {class}"], WORDS
    if action.type is None:
        return ["cpu", "cpu,cpu", "auto"], NAMES
    return ["1", "2", "3", "0.5", "32", "64"], NUMBERS

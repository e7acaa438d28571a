"""Command lines as nobody means them: every one ends with status 0 or 2 and without a traceback.

`campaign(count, ...)` runs so many of them through the parsers and the planning, in this process; nothing is computed.
"""

import os
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ldm.commands.dreambooth import run as dreambooth_run
from ldm.commands.sampling import run as sampling_run
from ldm.commands.train import STAGES
from tests.commands.calls import Outcome, call

NUMBERS = (
    *("0", "1", "2", "-1", "-2", "3.5", "1e9", "1e400", "-0.0", "nan", "inf", "-inf", "1" + "0" * 30, "9" * 5000),
    *("64", "20000", "65536", "100000000", "0x10", "1_0", "", " 7 ", "seven", "٣", "²"),
)
WORDS = (
    *("", " ", "a cat", "a can", "sks can", "the", "sks", "{class}", "{", "${class}", "%s", "%(x)s", "-", "--", "'"),
    *("a\nerror: all fine", "\x1b[2J", "\u202egpj", "caf\udce9", "\ud83d", "😀", "ماء", "x" * 5000, "=1+1", "../.."),
)
PLACES = (
    *("", ".", "..", "nowhere", "/dev/null", "/dev/zero", "/", "/proc/self/mem", "x" * 300, "a/" * 3000, "caf\udce9"),
    *("a\nb", "-x", "~", "$HOME", "pipe", "empty", "text", "photos", "photos/0.png", "model/tiny.safetensors", "model"),
    *("text/below", "hostile.yaml", "loop", "run"),
)
NAMES = ("auto", "cpu", "cuda", "cuda:99", "cpu,cpu", "mps", "0,0", "meta", "xla", ",", "full", "bf16", "fp16", "none")
ANY = (*NUMBERS, *WORDS, *PLACES, *NAMES)

FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "txt2img": {
        **dict.fromkeys(("-v", "--seed", "--hw", "--ddim-steps", "--scale", "--ddim-eta", "-b"), NUMBERS),
        **dict.fromkeys(("-p", "-n"), WORDS),
        **dict.fromkeys(("-c", "-r", "--base", "--instance-img-dir", "--config", "-o"), PLACES),
        **dict.fromkeys(("-d", "--precision", "--sampler", "--compile"), NAMES),
        **dict.fromkeys(("--no-base", "--score"), ()),
    },
    "dreambooth": {
        **dict.fromkeys(("--iterations", "-s", "--learning-rate", "--warmup-steps", "--weight-decay", "-l"), NUMBERS),
        **dict.fromkeys(("--max-grad-norm", "--batch-size", "--seed", "--class-img-count", "--gb", "--hw"), NUMBERS),
        **dict.fromkeys(("--ddim-steps", "--scale", "--ddim-eta", "--class-steps"), NUMBERS),
        **dict.fromkeys(("-c", "--preview-prompt"), WORDS),
        **dict.fromkeys(("-i", "-r", "--ckpt-path", "--config", "-o"), PLACES),
        **dict.fromkeys(("-d", "--precision", "--vram", "--optimizer", "--train-dtype", "--logger"), NAMES),
        **dict.fromkeys(("-t", "--flip", "--no-previews"), ()),
    },
    "train": {
        **dict.fromkeys(("--iterations", "-s", "--learning-rate", "--batch-size", "--seed", "--workers"), NUMBERS),
        **dict.fromkeys(("-i", "--config", "--autoencoder", "--ckpt-path", "-r", "-o"), PLACES),
        **dict.fromkeys(("-d", "--precision", "--save-dtype", "--logger"), NAMES),
    },
}
FLAGS["img2img"] = {**FLAGS["txt2img"], "-i": PLACES, "-s": NUMBERS}
FLAGS["evaluate"] = {**FLAGS["txt2img"], "-i": PLACES, "--encoder": NAMES, "--protocol": NAMES}
del FLAGS["img2img"]["--score"], FLAGS["evaluate"]["--score"]

Make = Callable[[], list[str]]


@dataclass(frozen=True)
class Tried:
    """One command line and how it ended."""

    command: str
    arguments: list[str]
    outcome: Outcome

    @property
    def is_good(self) -> bool:
        """It did what it was told, or said what was wrong with it, and wrote nothing raw to the terminal."""
        said = self.outcome.said
        return (
            self.outcome.status in (0, 2) and "Traceback" not in said and "\x1b[2J" not in said and "\u202e" not in said
        )


def prepare(directory: Path, checkpoint: Path, photos: Path) -> None:
    """Makes what some of the `PLACES` name, below the directory in which the commands are to run."""
    os.mkfifo(directory / "pipe")
    (directory / "empty").mkdir()
    (directory / "text").write_text("no image, no YAML: [")
    (directory / "hostile.yaml").write_text("a: &a [*a]\n")
    (directory / "loop").symlink_to("loop")
    (directory / "photos").symlink_to(photos)
    (directory / "model").symlink_to(checkpoint.parent)
    (directory / "run").mkdir()
    (directory / "run" / "run.yaml").write_text("options: {class_name: 7, variations: x, stage: diffusion}\n")


def random_command(draw: random.Random) -> tuple[str, list[str]]:
    """A command and words for it: mostly flags that it has, mostly with words of their kind."""
    command = draw.choice([*FLAGS])
    arguments = [draw.choice(["autoencoder", "diffusion", "tokenizer", "judge", "stage"])] if command == "train" else []
    if command == "dreambooth" and draw.random() < 0.8:
        arguments += ["-c", "can", "-i", "photos", "--ckpt-path", "model/tiny.safetensors"]
    elif command != "train" and draw.random() < 0.8:
        arguments += ["-c", "model/tiny.safetensors"]
    for flag in draw.sample([*FLAGS[command]], draw.choice([0, 1, 1, 2, 3, 5])):
        kind = FLAGS[command][flag]
        if not kind:
            arguments.append(flag)
            continue
        word = draw.choice(kind if draw.random() < 0.9 else ANY)
        arguments += [f"{flag}={word}"] if flag.startswith("--") and draw.random() < 0.5 else [flag, word]
    return command, arguments


def campaign(count: int, seed: int = 0) -> list[Tried]:
    """Runs so many random command lines in the current directory, up to where something would be computed."""
    draw = random.Random(seed)
    nothing = mock.DEFAULT
    with (
        mock.patch.object(sampling_run, "sample_rows", nothing),
        mock.patch.multiple(dreambooth_run, sample_class_images=nothing, _build_module=nothing, fit=_no_fit),
        mock.patch.object(dreambooth_run, "Previews", mock.MagicMock()),
        mock.patch.object(dreambooth_run, "_report", nothing),
        mock.patch.dict(STAGES, dict.fromkeys(STAGES, lambda run: None)),
    ):
        lines = [random_command(draw) for _ in range(count)]
        return [Tried(command, words, _outcome(command, words)) for command, words in lines]


def _outcome(command: str, words: list[str]) -> Outcome:
    """An unexpected exception is told with the command line that made it."""
    try:
        return call(command, *words)
    except Exception:
        return Outcome(1, traceback.format_exc())


def _no_fit(*arguments: object) -> None:
    """Trains nothing."""

"""Runs of dreambooth.py on the tiny model, as its tests start and stop them."""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ldm.commands.dreambooth import run as command
from ldm.errors import UserError
from ldm.training.dreambooth import DreamBooth
from ldm.training.trainer import FitOptions
from tests.commands.calls import Outcome, call, refused
from tests.commands.fixtures import Trained

SHORT = ("--iterations", 2, "-s", 2, "--class-img-count", 2)


@dataclass(frozen=True)
class FineTune:
    """Runs dreambooth.py on the tiny model in an empty directory, with a short run's options unless they are given."""

    root: Path
    subject_dir: Path
    checkpoint: Path

    def words(self, *arguments: object) -> list[object]:
        """The command line."""
        flags = {"-c": "can", "-i": self.subject_dir, "--ckpt-path": self.checkpoint, "-o": self.root}
        flags |= dict(zip(SHORT[::2], SHORT[1::2], strict=True))
        given = [word for flag, value in flags.items() if flag not in arguments for word in (flag, value)]
        return [*given, *arguments]

    def call(self, *arguments: object) -> Outcome:
        """However it ends."""
        return call("dreambooth", *self.words(*arguments))

    def __call__(self, *arguments: object) -> Trained:
        """A run that succeeds."""
        outcome = self.call(*arguments)
        assert outcome.status == 0, outcome.said
        directory = Path(re.findall(r"^run: (.*)$", outcome.said, re.MULTILINE)[0])
        return Trained(directory, outcome)


@dataclass
class Planned:
    """What `fit` is given."""

    module: DreamBooth
    options: FitOptions


Plan = Callable[..., Planned]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scalars(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "log"))
    events.Reload()
    return events


STOPPED = ("--iterations", 4, "-s", 2, "--class-img-count", 2, "--no-previews", "--seed", 7, "--save-dtype", "bf16")


def interrupted(fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch, at: int, *arguments: object) -> Path:
    """A run whose disk is full at the save of this step."""

    def fail() -> None:
        raise UserError("the disk is full")

    def full(writer_of: Callable[..., Callable[[], None]], path: Path, *args: Any) -> Callable[[], None]:
        return fail if path.name == f"step-{at:05d}.safetensors" else writer_of(path, *args)

    with monkeypatch.context() as patch:
        for name in ("checkpoint_writer", "lora_writer", "embedding_writer"):
            patch.setattr(command, name, partial(full, getattr(command, name)))
        refused(fine_tune.call(*arguments), "the disk is full")
    return fine_tune.root / "can-1"


def copied(directory: Path, root: Path) -> Path:
    """Copies a run with its class images; its record has the new place."""
    shutil.copytree(directory.parent, root)
    record = root / directory.name / "run.yaml"
    record.write_text(record.read_text().replace(str(directory.parent), str(root)))
    return root / directory.name

"""Stages of train.py at the smallest size, as its tests start them."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.training.trainer import FitOptions
from tests.commands.calls import Outcome, call
from tests.commands.fixtures import Trained
from tests.scratch import write_captioned, write_yaml

LAST = "step-000006.safetensors"


@dataclass(frozen=True)
class Scratch:
    """A folder of images, a YAML and a directory for runs."""

    root: Path
    images: Path
    config: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    def call(self, stage: str, *arguments: object) -> Outcome:
        """Runs train.py with this folder and YAML, unless others are named."""
        return call("train", stage, *self.words(stage, *arguments))

    def words(self, stage: str, *arguments: object) -> list[object]:
        flags = {"-i": self.images, "--config": self.config}
        if stage != "tokenizer":
            flags["-o"] = self.runs
        missing = [word for flag, value in flags.items() if flag not in arguments for word in (flag, value)]
        return [*missing, *arguments]

    def train(self, stage: str, *arguments: object) -> Trained:
        """A run that goes through."""
        outcome = self.call(stage, *arguments)
        assert outcome.status == 0, outcome.said
        return Trained(Path(re.findall(r"^run: (.*)$", outcome.said, re.MULTILINE)[0]), outcome)

    def with_yaml(self, changes: Mapping[str, Mapping[str, Any]]) -> "Scratch":
        """With another YAML beside this one."""
        config = self.root / f"changed-{len(list(self.root.glob('changed-*')))}.yaml"
        return Scratch(self.root, self.images, write_yaml(config, self.tokenizer, changes))


def new_scratch(root: Path) -> Scratch:
    root.mkdir(exist_ok=True)
    images = write_captioned(root / "pictures")
    return Scratch(root, images, write_yaml(root / "scratch.yaml", root / "tokenizer"))


@dataclass
class Planned:
    """What a training would have been given."""

    module: Any
    options: FitOptions


Plan = Callable[..., Planned]
Refuses = Callable[..., None]


def files_of(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def copied(run: Path, scratch: Scratch) -> Path:
    """A copy of a finished run."""
    shutil.copytree(run, scratch.runs / run.name)
    return scratch.runs / run.name

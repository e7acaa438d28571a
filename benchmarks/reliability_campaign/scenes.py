"""The commands that the campaign runs, at the smallest size: every command, and every stage of train.py."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability_campaign.running import Work, words

TRAINED = "runs/{stage}-1/step-000006.safetensors"
UNSETTLED = re.compile(r"(^|/)(run\.log|\.lock)$|tfevents|^tmp/")
"""Patterns of files that differ between any two runs: logs with times."""


@dataclass(frozen=True)
class Fixtures:
    """The inputs of the commands, shared by all cases; none writes to them."""

    root: Path

    @property
    def photos(self) -> Path:
        """Of the subject."""
        return self.root / "photos"

    @property
    def tiny(self) -> Path:
        """The tiny model of the tests."""
        return self.root / "tiny" / "tiny.safetensors"

    @property
    def ckpts(self) -> Path:
        """A finished run of dreambooth.py, to compare."""
        return self.root / "ckpts"

    @property
    def images(self) -> Path:
        """With captions, to train from scratch on."""
        return self.root / "pictures"

    @property
    def things(self) -> Path:
        """Things with several images, for the judge."""
        return self.root / "things"

    @property
    def config(self) -> Path:
        """The YAML of a training from scratch."""
        return self.root / "scratch.yaml"

    def trained(self, stage: str) -> Path:
        """The last checkpoint of a stage."""
        return self.root / TRAINED.format(stage=stage)


@dataclass(frozen=True)
class Scene:
    """One command, and its results in its directory."""

    name: str
    command: str
    flags: Callable[[Fixtures, Path], tuple[object, ...]]
    runs: str = ""
    """Its run directories, below the root; none: it is called again with the same flags."""
    stage: str = ""
    patches: Callable[[Path], dict[str, Any]] = field(default=lambda root: {})
    prepare: Callable[[Fixtures, Path], None] = field(default=lambda fixtures, root: None)

    def work(self, fixtures: Fixtures, root: Path, *more: object) -> Work:
        """The command as it is called first."""
        given = words(*self._stage(), *self.flags(fixtures, root), *more)
        return Work(self.command, given, self.patches(root), reads=fixtures.root)

    def continued(self, fixtures: Fixtures, root: Path) -> Work:
        """The command that continues: with -r once there is a run, otherwise the first again."""
        if run := self.last_run(root):
            return Work(self.command, words(*self._stage(), "-r", run), self.patches(root), reads=fixtures.root)
        return self.work(fixtures, root)

    def last_run(self, root: Path) -> Path | None:
        """The run directory, if there is one already."""
        begun = [path for path in root.glob(self.runs) if (path / "run.yaml").exists()] if self.runs else []
        return max(begun, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

    def _stage(self) -> tuple[str, ...]:
        return (self.stage,) if self.stage else ()


def dreambooth_flags(fixtures: Fixtures, root: Path) -> tuple[object, ...]:
    """Flags that use every kind of randomness and state."""
    return (
        *("-c", "can", "-i", fixtures.photos, "--ckpt-path", fixtures.tiny, "-o", root, "-t", "--flip"),
        *("--lr-schedule", "cosine", "--warmup-steps", 2, "--iterations", 6, "-s", 2, "--save-dtype", "fp32"),
        *("--seed", 7, "--class-img-count", 3, "--gb", 1),
        *("--preview-prompt", "a photo of sks {class}", "a photo of a {class}"),
    )


def stage_flags(fixtures: Fixtures, root: Path) -> tuple[object, ...]:
    """Six updates, saved at three and six."""
    return ("-i", fixtures.images, "--config", fixtures.config, "-o", root, "--save-dtype", "fp32")


def comparison_flags(fixtures: Fixtures, root: Path) -> tuple[object, ...]:
    """Two prompts and two seeds, with noise in every step."""
    prompts = ("-p", "a photo of sks {class}", "a photo of a {class}")
    return ("-c", fixtures.ckpts, "-o", root, "-v", 2, "--ddim-eta", 1.0, "--seed", 5, *prompts)


def tokenizer_yaml(fixtures: Fixtures, root: Path) -> None:
    """A YAML whose tokenizer does not exist yet, in the case's directory."""
    text = fixtures.config.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^tokenizer:.*$", f"tokenizer: {root / 'tokenizer'}", text)
    (root / "scratch.yaml").write_text(text, encoding="utf-8")


def autoencoder_of(fixtures: Fixtures) -> tuple[object, ...]:
    """Where the second stage starts."""
    return ("--autoencoder", fixtures.trained("autoencoder"))


JUDGE = ("--iterations", 4, "-s", 2, "--batch-size", 2)

SCENES = (
    Scene("dreambooth", "dreambooth", dreambooth_flags, "can-*"),
    Scene("autoencoder", "train", stage_flags, "autoencoder-*", "autoencoder"),
    Scene(
        "diffusion",
        "train",
        lambda fixtures, root: (*stage_flags(fixtures, root), *autoencoder_of(fixtures)),
        "diffusion-*",
        "diffusion",
    ),
    Scene(
        "judge",
        "train",
        lambda fixtures, root: ("-i", fixtures.things, "--config", fixtures.config, "-o", root, *JUDGE),
        "judge-*",
        "judge",
    ),
    Scene(
        "tokenizer",
        "train",
        lambda fixtures, root: ("-i", fixtures.images, "--config", root / "scratch.yaml"),
        stage="tokenizer",
        prepare=tokenizer_yaml,
    ),
    Scene(
        "publish",
        "train",
        lambda fixtures, root: ("--ckpt-path", fixtures.trained("diffusion"), "--config", fixtures.config),
        stage="publish",
        patches=lambda root: {"ldm.commands.train.publish:ROOT": root / "house"},
    ),
    Scene("txt2img", "txt2img", comparison_flags, "txt2img-*"),
    Scene(
        "img2img",
        "img2img",
        lambda fixtures, root: (*comparison_flags(fixtures, root), "-i", fixtures.photos / "0.png", "--hw", 32),
        "img2img-*",
    ),
    Scene(
        "evaluate",
        "evaluate",
        lambda fixtures, root: (*comparison_flags(fixtures, root), "--encoder", "toyworld-judge"),
        "evaluate-*",
    ),
)
BY_NAME = {scene.name: scene for scene in SCENES}

"""Calls the commands as a user types them: in this process, which is quick, or in one of its own."""

import contextlib
import importlib
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.commands.app import run
from ldm.config import read_yaml
from ldm.files import ROOT, natural_key
from tests.commands.processes import Process


@dataclass(frozen=True)
class Outcome:
    """The exit status and what was said on the terminal."""

    status: int
    said: str


@dataclass(frozen=True)
class Sampled:
    """What one call of txt2img or img2img wrote."""

    directory: Path
    said: str

    @property
    def paths(self) -> list[Path]:
        """The single images in their natural order."""
        images = (path for path in self.directory.glob("*.png") if not re.fullmatch(r"grid(-\d+)?\.png", path.name))
        return sorted(images, key=natural_key)

    @property
    def images(self) -> list[np.ndarray]:
        """The single images (h w 3)."""
        return [pixels(path) for path in self.paths]

    @property
    def record(self) -> dict[str, Any]:
        """The run's record."""
        return read_yaml(self.directory / "run.yaml")


def call(command: str, *arguments: object) -> Outcome:
    """Runs `python <command>.py <arguments>` in this process; an unexpected exception comes through."""
    said = io.StringIO()
    argv = [f"{command}.py", *map(str, arguments)]
    log = logging.getLogger("ldm")
    handlers = list(log.handlers)
    try:
        with mock.patch.object(sys, "argv", argv), contextlib.redirect_stderr(said):
            status = run(importlib.import_module(command).main)
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    finally:
        for handler in [handler for handler in log.handlers if handler not in handlers]:
            log.removeHandler(handler)
            handler.close()
    return Outcome(status, said.getvalue())


def start(command: str, *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Starts `python <command>.py <arguments>` as a process that can be stopped and killed."""
    return Process(command, *arguments, cwd=cwd, environment=environment)


def shell(command: str, *arguments: object, cwd: Path, timeout: float = 300) -> Outcome:
    """Runs `python <command>.py <arguments>` to its end in a Python of its own, as a terminal does."""
    process = subprocess.run(
        [sys.executable, str(ROOT / f"{command}.py"), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(process.returncode, process.stdout)


def refused(outcome: Outcome, *words: str) -> None:
    """Asserts that the user was told what was wrong, in these words, and nothing more frightening."""
    assert outcome.status == 2, outcome.said
    assert "Traceback" not in outcome.said
    for word in words:
        assert word in outcome.said


def pixels(path: Path) -> np.ndarray:
    """An image (h w 3) of whole numbers from 0 to 255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def difference(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two images' values.

    Sums in another order, as in a batch of another size or on another CPU, move a value by under a thousandth of a
    level. That can tip one that lies between two levels: the same images differ by 1 at most, others by more.
    """
    assert one.shape == other.shape
    return int(np.abs(one - other).max())


def metadata_of(checkpoint: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(checkpoint, framework="pt") as file:
        return dict(file.metadata())


def info_of(checkpoint: Path) -> CheckpointInfo:
    """What a checkpoint says of itself."""
    return CheckpointInfo.from_metadata(metadata_of(checkpoint))


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    return load_file(checkpoint)


def equal(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same bits."""
    a, b = tensors_of(one), tensors_of(other)
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)

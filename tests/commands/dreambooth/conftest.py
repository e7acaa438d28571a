"""Runs that are made anew for a test, and one that was stopped half way."""

from pathlib import Path
from typing import Any

import pytest

from ldm.commands.dreambooth import run as command
from ldm.training.dreambooth import DreamBooth
from ldm.training.trainer import FitOptions
from tests.commands.dreambooth.training_run import STOPPED, Plan, Planned, Teach, copied, interrupted


@pytest.fixture
def teach(tmp_path: Path, subject_dir: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Teach:
    monkeypatch.chdir(tmp_path)
    return Teach(tmp_path / "ckpts", subject_dir, tiny_checkpoint)


@pytest.fixture
def plan(teach: Teach, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Runs dreambooth.py without training."""
    seen: list[Planned] = []

    def no_fit(module: DreamBooth, options: FitOptions, save: Any) -> None:
        seen.append(Planned(module, options))

    monkeypatch.setattr(command, "fit", no_fit)

    def planned(*arguments: object) -> Planned:
        teach(*arguments)
        return seen[-1]

    return planned


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path) -> Path:
    """A run that stopped after its second update of four. It is shared: don't write to it."""
    teach = Teach(tmp_path_factory.mktemp("stopped") / "ckpts", subject_dir, tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        return interrupted(teach, patch, 4, *STOPPED)


@pytest.fixture
def stopped(stopped_once: Path, teach: Teach) -> Path:
    """A copy of that run and its class images."""
    return copied(stopped_once, teach.root)

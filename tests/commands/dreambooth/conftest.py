"""Fixtures: runs for one test, and one that stopped half way."""

from pathlib import Path
from typing import Any

import pytest

from ldm.commands.dreambooth import run as command
from ldm.training.dreambooth import DreamBooth
from ldm.training.trainer import FitOptions
from tests.commands.dreambooth.fine_tuning import STOPPED, FineTune, Plan, Planned, copied, interrupted


@pytest.fixture
def fine_tune(tmp_path: Path, subject_dir: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> FineTune:
    monkeypatch.chdir(tmp_path)
    return FineTune(tmp_path / "ckpts", subject_dir, tiny_checkpoint)


@pytest.fixture
def plan(fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Runs dreambooth.py without training."""
    planned_runs: list[Planned] = []

    def no_fit(module: DreamBooth, options: FitOptions, save: Any) -> None:
        planned_runs.append(Planned(module, options))

    monkeypatch.setattr(command, "fit", no_fit)

    def planned(*arguments: object) -> Planned:
        fine_tune(*arguments)
        return planned_runs[-1]

    return planned


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path) -> Path:
    """A run that stopped after its second update of four. It is shared: don't write to it."""
    fine_tune = FineTune(tmp_path_factory.mktemp("stopped") / "ckpts", subject_dir, tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        return interrupted(fine_tune, patch, 4, *STOPPED)


@pytest.fixture
def stopped(stopped_once: Path, fine_tune: FineTune) -> Path:
    """A copy of that run and its class images."""
    return copied(stopped_once, fine_tune.root)

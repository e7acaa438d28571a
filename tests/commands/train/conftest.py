"""Stages that went through, made once for all tests that look at them, and a place to make others."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ldm.commands.train import autoencoder as autoencoder_stage
from ldm.commands.train import diffusion as diffusion_stage
from ldm.training.trainer import FitOptions
from tests.commands.calls import refused
from tests.commands.train.stages import LAST, Plan, Planned, Refuses, Scratch, new_scratch
from tests.scratch import write_yaml


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A tokenizer, an autoencoder and a diffusion model, six updates each. They are shared: don't write to them."""
    scratch = new_scratch(tmp_path_factory.mktemp("finished"))
    outcome = scratch.call("tokenizer")
    assert outcome.status == 0, outcome.said
    autoencoder = scratch.train("autoencoder", "--save-dtype", "fp32")
    scratch.train("diffusion", "--save-dtype", "fp32", "--autoencoder", autoencoder.directory / LAST)
    return scratch


@pytest.fixture(scope="session")
def first(finished: Scratch) -> Path:
    """The autoencoder's run."""
    return finished.runs / "autoencoder-1"


@pytest.fixture(scope="session")
def second(finished: Scratch) -> Path:
    """The diffusion model's run."""
    return finished.runs / "diffusion-1"


@pytest.fixture
def scratch(finished: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """The same images and tokenizer, and a place of its own for runs, with the latents that are encoded already."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.images, tmp_path / "pictures")
    shutil.copytree(finished.tokenizer, tmp_path / "tokenizer")
    return Scratch(tmp_path, tmp_path / "pictures", write_yaml(tmp_path / "scratch.yaml", tmp_path / "tokenizer"))


@pytest.fixture
def plan(scratch: Scratch, first: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Runs a stage without training."""
    planned_runs: list[Planned] = []

    def no_fit(module: Any, options: FitOptions, save: Any) -> None:
        planned_runs.append(Planned(module, options))

    monkeypatch.setattr(autoencoder_stage, "fit", no_fit)
    monkeypatch.setattr(diffusion_stage, "fit", no_fit)

    def planned(stage: str, *arguments: object) -> Planned:
        needed = ("--autoencoder", first / LAST) if stage == "diffusion" and "--autoencoder" not in arguments else ()
        scratch.train(stage, *needed, *arguments)
        return planned_runs[-1]

    return planned


@pytest.fixture
def refuses(scratch: Scratch) -> Refuses:
    """Asserts that a call is refused in these words, before it has made a directory."""

    def check(arguments: tuple[object, ...], *words: str, scratch: Scratch = scratch) -> None:
        refused(scratch.call(*map(str, arguments)), *words)
        assert not scratch.runs.exists() or not list(scratch.runs.glob("*-1"))

    return check

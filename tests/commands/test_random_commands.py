"""A few random command lines; `LDM_RANDOM_COMMANDS=1000` makes a campaign of it, `LDM_RANDOM_SEED` another one."""

import os
import random
import traceback
from pathlib import Path
from unittest import mock

import pytest

from ldm.commands.dreambooth import run as dreambooth_run
from ldm.commands.sampling import run as sampling_run
from ldm.commands.train import STAGES, WITHOUT_RUN
from tests.commands.calls import Outcome, call
from tests.commands.fixtures import Trained
from tests.commands.random_commands import Files, random_command_line, write_odd_places
from tests.judges import write_things
from tests.scratch import write_captioned, write_yaml

COUNT, SEED = int(os.environ.get("LDM_RANDOM_COMMANDS", "40")), int(os.environ.get("LDM_RANDOM_SEED", "0"))


@pytest.fixture
def files(tmp_path: Path, tiny_checkpoint: Path, subject_dir: Path, trained: Trained) -> Files:
    write_captioned(tmp_path / "images", 2)
    write_things(tmp_path / "things")
    config = write_yaml(tmp_path / "scratch.yaml", tmp_path / "tokenizer")
    sources = trained.root, tmp_path / "images", tmp_path / "things", config, tiny_checkpoint
    return Files(tiny_checkpoint, subject_dir, *sources)


@pytest.fixture
def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands parse, plan and make their directories."""
    monkeypatch.setattr(sampling_run, "sample_rows", mock.Mock())
    for name in ("sample_class_images", "build_module", "_report"):
        monkeypatch.setattr(dreambooth_run, name, mock.Mock())
    monkeypatch.setattr(dreambooth_run, "Previews", mock.MagicMock())
    monkeypatch.setattr(dreambooth_run, "fit", lambda *arguments: None)
    for stages in (STAGES, WITHOUT_RUN):
        for stage in stages:
            monkeypatch.setitem(stages, stage, lambda run: None)


def outcome_of(command: str, words: list[str]) -> Outcome:
    """An unexpected exception is reported with the command line that caused it."""
    try:
        return call(command, *words)
    except Exception:
        return Outcome(1, traceback.format_exc())


def is_good(outcome: Outcome) -> bool:
    """The command did it, or said what is wrong, and wrote nothing raw to the terminal."""
    raw = ("Traceback", "\x1b[2J", "\u202e")
    return outcome.status in (0, 2) and not any(text in outcome.said for text in raw)


@pytest.mark.usefixtures("nothing_is_computed")
def test_no_command_line_ends_in_a_traceback(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_odd_places(Path())
    chance = random.Random(SEED)
    tried = []
    for _ in range(COUNT):
        command, *words = random_command_line(chance, files)
        tried.append((command, words, outcome_of(command, words)))
    assert [one for one in tried if not is_good(one[2])] == []
    assert {outcome.status for _, _, outcome in tried} == {0, 2}

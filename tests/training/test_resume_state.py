"""The resume state: written atomically, and read without executing code."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.errors import UserError
from ldm.training.resume_state import ResumeStateIO


def test_a_resume_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "resume.ckpt"
    ResumeStateIO().save_checkpoint({"weights": torch.arange(5), "step": 3}, path)
    state = ResumeStateIO().load_checkpoint(path)
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(5))
    assert [entry.name for entry in tmp_path.iterdir()] == ["resume.ckpt"]


def test_a_resume_state_that_can_not_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "resume.ckpt"
    ResumeStateIO().save_checkpoint({"step": 3}, path)
    with pytest.raises(Exception, match="pickle"):
        ResumeStateIO().save_checkpoint({"step": lambda: 4}, path)
    assert ResumeStateIO().load_checkpoint(path) == {"step": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["resume.ckpt"]


def test_a_named_pipe_in_place_of_a_resume_state_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "resume.ckpt")
    with pytest.raises(UserError, match=r"resume\.ckpt is a named pipe"):
        ResumeStateIO().load_checkpoint(path)


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"not a checkpoint at all"],
    ids=["cut off", "empty", "text"],
)
def test_a_damaged_resume_state_is_the_users_error_and_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "resume.ckpt"
    ResumeStateIO().save_checkpoint({"weights": torch.arange(5000)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"resume\.ckpt can't be read"):
        ResumeStateIO().load_checkpoint(path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_a_resume_state_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "resume.ckpt"
    torch.save({"step": Evil()}, path)
    with pytest.raises(UserError, match=r"resume\.ckpt can't be read"):
        ResumeStateIO().load_checkpoint(path)
    assert not (tmp_path / "evil").exists()

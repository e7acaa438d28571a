"""What all commands that go on have in common: the directory is theirs alone, and what was half written is gone."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm.commands.options.resumable import DRAWING
from ldm.commands.resuming import make_run_dir, refuse_fewer_updates, resumed_options
from ldm.errors import UserError
from ldm.locking import unlock_directories
from tests.commands.calls import call, refused
from tests.commands.fixtures import Sample
from tests.locks import another_process_has, others_may_lock


@pytest.fixture(autouse=True)
def nothing_locked_afterwards() -> Iterator[None]:
    yield
    unlock_directories()


def resume(directory: Path) -> argparse.Namespace:
    (directory / "run.yaml").write_text("options: {variations: 3}")
    given = argparse.Namespace(resume_dir=directory, variations=4, typed=["resume_dir"])
    return resumed_options(given, script="txt2img.py", has="variations", rules=DRAWING, paths=())


def test_a_new_directory_and_a_continued_one_are_locked(tmp_path: Path) -> None:
    assert not others_may_lock(make_run_dir(tmp_path, "can"))
    assert resume(tmp_path).variations == 3
    assert not others_may_lock(tmp_path)


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.png.123.partial").touch()
    with another_process_has(tmp_path), pytest.raises(UserError, match="another process"):
        resume(tmp_path)
    assert (tmp_path / ".a.png.123.partial").exists()
    resume(tmp_path)
    assert not (tmp_path / ".a.png.123.partial").exists()


def test_a_process_of_a_further_device_neither_locks_nor_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LDM_RUN_DIR", str(tmp_path))
    (tmp_path / ".a.png.123.partial").touch()
    with another_process_has(tmp_path):
        resume(tmp_path)
    assert (tmp_path / ".a.png.123.partial").exists()


def test_a_directory_that_another_process_samples_into_is_refused_and_unchanged(txt2img: Sample) -> None:
    sampled = txt2img("-v", 1)
    before = (sampled.directory / "run.yaml").read_bytes()
    with another_process_has(sampled.directory):
        refused(call("txt2img", "-r", sampled.directory), "being written by another process", str(sampled.directory))
    assert (sampled.directory / "run.yaml").read_bytes() == before
    assert call("txt2img", "-r", sampled.directory).status == 0


@pytest.mark.parametrize(
    "foreign", ["step-00400-best.safetensors", "step-best.safetensors", "my-step-00400.safetensors"]
)
def test_only_the_runs_own_checkpoints_tell_how_far_it_came(foreign: str, tmp_path: Path) -> None:
    refuse_fewer_updates(tmp_path, 1)
    for name in (foreign, "step-00002.safetensors", "step-00010.safetensors"):
        (tmp_path / name).touch()
    refuse_fewer_updates(tmp_path, 10)
    refuse_fewer_updates(tmp_path, None)
    with pytest.raises(UserError, match="--iterations 9 is less than the 10 updates this run has made"):
        refuse_fewer_updates(tmp_path, 9)

"""What all resumed commands share: the directory is locked, half-written files go, and what the end leaves behind."""

import argparse
from pathlib import Path

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.commands.options.resumable import SAMPLING
from ldm.commands.resuming import end_resume_state, make_run_dir, refuse_fewer_updates, resumed_options
from ldm.errors import UserError
from tests.locks import another_process_has, others_may_lock

pytestmark = pytest.mark.usefixtures("unlock_afterwards")


def resume(directory: Path) -> argparse.Namespace:
    (directory / "run.yaml").write_text("options: {variations: 3}")
    given = argparse.Namespace(resume_dir=directory, variations=4, typed=["resume_dir"])
    return resumed_options(given, script="txt2img.py", own_option="variations", rules=SAMPLING, paths=())


def test_a_new_run_directory_and_a_resumed_one_are_locked(tmp_path: Path) -> None:
    assert not others_may_lock(make_run_dir(tmp_path, "can"))
    assert resume(tmp_path).variations == 3
    assert not others_may_lock(tmp_path)


def test_files_that_another_process_writes_stay(tmp_path: Path) -> None:
    (tmp_path / ".a.png.123.partial").touch()
    with another_process_has(tmp_path), pytest.raises(UserError, match="another process"):
        resume(tmp_path)
    assert (tmp_path / ".a.png.123.partial").exists()
    resume(tmp_path)
    assert not (tmp_path / ".a.png.123.partial").exists()


def test_only_the_first_process_locks_and_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LDM_RUN_DIR", str(tmp_path))
    (tmp_path / ".a.png.123.partial").touch()
    with another_process_has(tmp_path):
        resume(tmp_path)
    assert (tmp_path / ".a.png.123.partial").exists()


@pytest.mark.parametrize(
    "foreign", ["step-00400-best.safetensors", "step-best.safetensors", "my-step-00400.safetensors"]
)
def test_only_the_runs_own_checkpoints_count_as_updates(foreign: str, tmp_path: Path) -> None:
    refuse_fewer_updates(tmp_path, 1)
    for name in (foreign, "step-00002.safetensors", "step-00010.safetensors"):
        (tmp_path / name).touch()
    refuse_fewer_updates(tmp_path, 10)
    refuse_fewer_updates(tmp_path, None)
    with pytest.raises(UserError, match="--iterations 9 is less than the 10 updates this run has made"):
        refuse_fewer_updates(tmp_path, 9)


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A run of 4 kB, 3 of which are its state."""
    directory = tmp_path / "my runs" / "can-1"
    (directory / "samples").mkdir(parents=True)
    (directory / "samples" / "a.png").write_bytes(b"a" * 990)
    (directory / "run.yaml").write_text("a: 1\nb: 22\n")
    (directory / RESUME_STATE).write_bytes(b"a" * 3000)
    for name in ("step-00200.safetensors", "step-01000.safetensors"):
        (directory / name).touch()
    return directory


def test_the_size_of_the_resume_state_is_logged_and_how_to_remove_it(
    ended: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ldm")
    end_resume_state(ended, drop=False)
    (message,) = caplog.messages
    assert message.startswith(f"resume.ckpt takes 3 kB of the 4 kB in {ended}. Only resuming")
    assert message.endswith(f"\n  rm '{ended / RESUME_STATE}'")
    assert (ended / RESUME_STATE).exists()


def test_the_resume_state_is_dropped(ended: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ldm")
    end_resume_state(ended, drop=True)
    assert not (ended / RESUME_STATE).exists()
    (message,) = caplog.messages
    assert "resume.ckpt is removed, which frees 3 kB" in message
    end_resume_state(ended, drop=True)
    assert len(caplog.messages) == 1

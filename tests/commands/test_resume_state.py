"""What becomes of the resume state of a run that has ended."""

from pathlib import Path

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.commands.resume_state import end_resume_state


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 4 kB, 3 of which are its state."""
    directory = tmp_path / "my runs" / "can-1"
    (directory / "samples").mkdir(parents=True)
    (directory / "samples" / "a.png").write_bytes(b"a" * 990)
    (directory / "run.yaml").write_text("a: 1\nb: 22\n")
    (directory / RESUME_STATE).write_bytes(b"a" * 3000)
    for name in ("step-00200.safetensors", "step-01000.safetensors"):
        (directory / name).touch()
    return directory


def test_its_size_is_said_and_how_to_remove_it(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ldm")
    end_resume_state(run, drop=False)
    (said,) = caplog.messages
    assert said.startswith(f"resume.ckpt takes 3 kB of the 4 kB in {run}. It is only for continuing")
    assert said.endswith(f"\n  rm '{run / RESUME_STATE}'")
    assert (run / RESUME_STATE).exists()


def test_it_is_removed_if_that_is_asked_for(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ldm")
    end_resume_state(run, drop=True)
    assert not (run / RESUME_STATE).exists()
    (said,) = caplog.messages
    assert "resume.ckpt is removed, which frees 3 kB" in said
    end_resume_state(run, drop=True)
    assert len(caplog.messages) == 1

"""What becomes of the resume state of a run that has ended."""

from pathlib import Path

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.commands.resume_state import end_resume_state, refuse_without_dropped_state
from ldm.config import read_yaml
from ldm.errors import UserError


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
    end_resume_state(run, 1000, drop=False)
    (said,) = caplog.messages
    assert said.startswith(f"resume.ckpt takes 3 kB of the 4 kB in {run}. It is only for going on")
    assert said.endswith(f"\n  rm '{run / RESUME_STATE}'")
    assert (run / RESUME_STATE).exists()
    refuse_without_dropped_state(run)


def test_a_run_whose_state_was_dropped_says_so_and_what_is_there(run: Path) -> None:
    end_resume_state(run, 1000, drop=True)
    end_resume_state(run, 1000, drop=True)
    assert not (run / RESUME_STATE).exists()
    assert {name: read_yaml(run / "run.yaml")[name] for name in ("a", "b")} == {"a": 1, "b": 22}
    with pytest.raises(UserError, match=r"can-1 ended after update 1000.*--drop-resume-state.*step-01000\.safetensors"):
        refuse_without_dropped_state(run)
    refuse_without_dropped_state(run / "no run")


def test_a_run_that_has_its_state_all_the_same_goes_on(run: Path) -> None:
    """The process was killed between the record and the removal, or the state was copied back."""
    state = (run / RESUME_STATE).read_bytes()
    end_resume_state(run, 1000, drop=True)
    (run / RESUME_STATE).write_bytes(state)
    refuse_without_dropped_state(run)

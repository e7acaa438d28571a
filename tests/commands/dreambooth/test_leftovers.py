"""What a process that is killed while it writes leaves is removed by the next one, and its run can be resumed."""

from pathlib import Path
from typing import Any

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from tests.commands.calls import call, equal, refused
from tests.commands.dreambooth.fine_tuning import FineTune
from tests.commands.fixtures import Trained
from tests.commands.processes import FORKS
from tests.full_disk import entries

OPTIONS = ("--iterations", 2, "-s", 1, "--class-img-count", 2, "--seed", 7, "--save-dtype", "fp32")

WRITERS = {
    "step-00002.safetensors": ("ldm.checkpoint.saving", "save_file"),
    RESUME_STATE: ("torch", "save"),
    "class image": ("PIL.Image", "Image.save"),
    "run.yaml": ("pathlib", "Path.write_text"),
}
"""Files, and what writes them: the modules' functions are called with the path that is written as an argument."""


def _die_while_writing(what: str, words: list[str], cwd: str) -> None:
    """Runs a command and ends at once, as by SIGKILL, when half of a file is written."""
    import importlib
    import os
    import signal

    module, name = WRITERS[what]
    owner: Any = importlib.import_module(module)
    *owners, name = name.split(".")
    for one in owners:
        owner = getattr(owner, one)

    def die(*given: Any, **named: Any) -> None:
        path = next(Path(one) for one in given if isinstance(one, str | Path))
        if what == "class image" or path.name == what:
            path.write_bytes(b"half") if what != "run.yaml" else path.open("w").write("half")
            (path.parent / ".tmpAbC123").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        original(*given, **named)

    original = getattr(owner, name)
    setattr(owner, name, die)
    os.chdir(cwd)
    call("dreambooth", *words)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path) -> Trained:
    """A run with these options that was not killed. It is shared: don't write to it."""
    return FineTune(tmp_path_factory.mktemp("whole") / "ckpts", subject_dir, tiny_checkpoint)(*OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("what", WRITERS)
def test_half_written_files_are_gone_after_the_next_start(
    what: str, fine_tune: FineTune, whole: Trained, tmp_path: Path
) -> None:
    words = fine_tune.words(*OPTIONS)
    process = FORKS.Process(target=_die_while_writing, args=(what, list(map(str, words)), str(tmp_path)))
    process.start()
    process.join(120)
    assert process.exitcode == -9
    assert [name for name in entries(fine_tune.root) if name.endswith(".tmpAbC123")]
    again = words if what == "run.yaml" else ["-r", fine_tune.root / "can-1"]
    outcome = call("dreambooth", *again)
    assert outcome.status == 0, outcome.said
    assert {name for name in entries(fine_tune.root) if "/log/" not in name} == {
        name for name in entries(whole.root) if "/log/" not in name
    }
    assert equal(whole.step(2), fine_tune.root / "can-1" / "step-00002.safetensors")


def test_a_run_drops_its_resume_state_at_its_end(fine_tune: FineTune) -> None:
    run = fine_tune("--class-img-count", 0, "--no-previews", "--drop-resume-state")
    assert "resume.ckpt is removed" in run.outcome.said
    assert not (run.directory / RESUME_STATE).exists()
    assert "is finished: all 2 updates are made" in call("dreambooth", "-r", run.directory).said
    refused(call("dreambooth", "-r", run.directory, "--iterations", 4), "resume.ckpt is not there", "step-00002")


def test_a_finished_run_drops_its_resume_state_when_it_is_resumed(fine_tune: FineTune) -> None:
    run = fine_tune("--class-img-count", 0, "--no-previews")
    assert f"rm {run.directory / RESUME_STATE}" in run.outcome.said
    assert call("dreambooth", "-r", run.directory, "--drop-resume-state").status == 0
    assert not (run.directory / RESUME_STATE).exists()

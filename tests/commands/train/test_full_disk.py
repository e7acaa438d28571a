"""On a full disk each stage of train.py ends with one line, and resumes to the same bits later."""

from pathlib import Path

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from tests.commands.calls import equal, refused
from tests.commands.train.stages import LAST, Scratch
from tests.full_disk import entries, files_of_at_most

TOO_LARGE = "File too large; `ulimit -f` allows files of "


@pytest.mark.slow
@pytest.mark.parametrize("what", ["run.yaml", RESUME_STATE])
def test_a_training_that_could_not_write_resumes_when_it_can(what: str, scratch: Scratch, first: Path) -> None:
    words = ("autoencoder", "--save-dtype", "fp32")
    run = scratch.runs / first.name
    with files_of_at_most((first / what).stat().st_size - 100):
        refused(scratch.call(*words), f"could not write {run / what}: {TOO_LARGE}")
    assert not [name for name in entries(scratch.runs) if ".partial" in name or ".tmp" in name]
    if what == "run.yaml":
        scratch.train(*words)
    else:
        scratch.train("autoencoder", "-r", run)
    assert equal(first / LAST, run / LAST)
    assert [path.name for path in scratch.runs.iterdir()] == [run.name]


@pytest.mark.slow
def test_latents_that_could_not_be_written_are_encoded_when_they_can(
    scratch: Scratch, first: Path, second: Path
) -> None:
    (latents,) = (second.parent / "latents").iterdir()
    run = scratch.runs / "diffusion-1"
    with files_of_at_most(latents.stat().st_size - 100):
        outcome = scratch.call("diffusion", "--save-dtype", "fp32", "--autoencoder", first / LAST)
    refused(outcome, "could not write", "latents", f".npy: {TOO_LARGE}")
    assert entries(scratch.runs / "latents") == set()
    scratch.train("diffusion", "-r", run)
    assert equal(second / LAST, run / LAST)

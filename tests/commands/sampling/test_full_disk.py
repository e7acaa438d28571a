"""Sampling onto a full disk ends with a one-line error, and resumes to the same images when there is room."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.commands.calls import call, difference, pixels, refused
from tests.commands.fixtures import Sample, Trained
from tests.full_disk import entries, files_of_at_most

TOO_LARGE = "File too large; `ulimit -f` allows files of "


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        "image",
        "index.html",
        pytest.param("grid.png", marks=pytest.mark.slow),
        pytest.param("comparison.json", marks=pytest.mark.slow),
    ],
)
def test_a_comparison_that_could_not_be_written_is_when_it_can(
    what: str, txt2img: Sample, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = txt2img("-c", trained.directory, "-v", 1, "--hw", 32, 32)
    name = whole.paths[0].name if what == "image" else what
    smallest = min(path.stat().st_size for path in whole.paths)
    size = smallest - 100 if what == "image" else (whole.directory / what).stat().st_size - 100
    directory = Path("outputs") / "txt2img-2"
    with monkeypatch.context() as patch, files_of_at_most(size):
        if what == "comparison.json":  # the grid comes before it, and is larger
            patch.setattr("ldm.report.files.write_sheets", lambda *given: ["grid.png"])
        outcome = call("txt2img", "-c", trained.directory, "-v", 1, "--hw", 32, 32)
    refused(outcome, "could not write", TOO_LARGE, f"python txt2img.py -r {directory}")
    if what != "image":
        assert f"could not write {directory / name}: " in outcome.said
        assert not (directory / name).exists()
    outcome = call("txt2img", "-r", directory)
    assert outcome.status == 0, outcome.said
    assert entries(directory) == entries(whole.directory)
    for path in whole.paths:
        assert difference(pixels(path), pixels(directory / path.name)) == 0


def test_what_would_fill_the_disk_is_not_begun(
    tmp_path: Path, txt2img: Sample, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of 32 x 32 takes about 1536 bytes."""
    sampled = txt2img("-v", 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1500))
    outcome = call("txt2img", "-c", tiny_checkpoint, "-v", 2)
    refused(outcome, "2 images of 32 x 32 pixels need about 3.07 kB", "has 1.5 kB free", "--variations")
    assert [path.name for path in Path("outputs").iterdir()] == [sampled.directory.name]
    sampled.paths[0].unlink()
    refused(call("txt2img", "-r", sampled.directory), "1 image of 32 x 32 pixels need", "1.54 kB")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1600))
    assert call("txt2img", "-r", sampled.directory).status == 0

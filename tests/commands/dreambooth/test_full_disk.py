"""A disk that is full at any file of a run ends it with one line; resumed with room again it has the same bits."""

from pathlib import Path
from typing import Any

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.previews import Previews
from tests.commands.calls import Outcome, call, difference, equal, pixels, refused
from tests.commands.dreambooth.fine_tuning import FineTune, Plan
from tests.commands.fixtures import Trained
from tests.full_disk import entries, files_of_at_most

OPTIONS = ("--iterations", 4, "-s", 2, "--class-img-count", 2, "--seed", 7, "--save-dtype", "fp32")
PREVIEW = "samples/pictures/step-00000_00.png"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path) -> Trained:
    """A run with these options that had room enough. It is shared: don't write to it."""
    return FineTune(tmp_path_factory.mktemp("whole") / "ckpts", subject_dir, tiny_checkpoint)(*OPTIONS)


def assert_whole(run: Path, whole: Trained) -> None:
    """Asserts that a run has exactly the files of an uninterrupted one, bit for bit."""
    for path in (whole.step(2), whole.step(4)):
        assert equal(path, run / path.name)
    for path in whole.directory.rglob("samples/**/*.png"):
        assert difference(pixels(path), pixels(run / path.relative_to(whole.directory))) == 0
    assert {name for name in entries(run) if not name.startswith("log/")} == {
        name for name in entries(whole.directory) if not name.startswith("log/")
    }


def assert_reported(outcome: Outcome, path: Path) -> None:
    """Asserts that the error names the file and the system's reason."""
    refused(outcome, f"error: could not write {path}: File too large; `ulimit -f` allows files of ")


def full_while(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, size: int) -> None:
    """Limits the size of files while this function runs."""
    function = getattr(owner, name)

    def limited(*given: Any, **named: Any) -> Any:
        with files_of_at_most(size):
            return function(*given, **named)

    monkeypatch.setattr(owner, name, limited)


@pytest.mark.slow
@pytest.mark.parametrize("what", [RESUME_STATE, "step-00002.safetensors", PREVIEW])
def test_a_run_that_could_not_write_can_be_resumed(
    what: str, fine_tune: FineTune, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (whole.directory / what).stat().st_size - 100
    with monkeypatch.context() as patch:
        full_while(patch, *((Previews, "sample_untrained") if what == PREVIEW else (command, "fit")), size)
        outcome = fine_tune.call(*OPTIONS)
    assert_reported(outcome, fine_tune.root / "can-1" / what)
    assert not (fine_tune.root / "can-1" / what).exists()
    assert not [name for name in entries(fine_tune.root) if ".partial" in name or ".tmp" in name]
    outcome = call("dreambooth", "-r", fine_tune.root / "can-1")
    assert outcome.status == 0, outcome.said
    assert_whole(fine_tune.root / "can-1", whole)


def test_a_record_that_can_not_be_written_leaves_no_run(fine_tune: FineTune, plan: Plan) -> None:
    with files_of_at_most(500):
        assert_reported(fine_tune.call(*OPTIONS), fine_tune.root / "can-1" / "tokenizer" / "vocab.json")
    assert plan(*OPTIONS).options.run_dir.name == "can-1"
    assert [path.name for path in fine_tune.root.glob("can-*")] == ["can-1"]


@pytest.mark.slow
def test_class_images_that_can_not_be_written_are_sampled_by_the_resumed_run(
    fine_tune: FineTune, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = whole.root / "class-images"
    smaller = min(path.stat().st_size for path in sampled.rglob("*.png"))
    with monkeypatch.context() as patch:
        full_while(patch, command, "sample_class_images", smaller - 100)
        outcome = fine_tune.call(*OPTIONS)
    refused(outcome, "could not write", "class-images", ".png: File too large")
    outcome = call("dreambooth", "-r", fine_tune.root / "can-1")
    assert outcome.status == 0, outcome.said
    assert entries(fine_tune.root / "class-images") == entries(sampled)
    assert_whole(fine_tune.root / "can-1", whole)

"""A disk that is full at any file of a run ends it in one line; with room again it goes on to the same bits."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.previews import Previews
from ldm.files import ROOT
from tests.commands.calls import Outcome, call, difference, equal, pixels, refused
from tests.commands.dreambooth.training_run import Teach
from tests.commands.fixtures import Trained
from tests.full_disk import entries, files_of_at_most

TINY_DISK = """
set -e
mount -t tmpfs -o size=$1 tmpfs "$2"
shift
cd "$1"
shift
status=0
"$@" || status=$?
echo "status: $status"
find . -name "*.partial" -o -name ".tmp*"
mount -o remount,size=1g .
"$PYTHON" "$ROOT/dreambooth.py" -r can-1
"""
"""Runs a command on a disk of so many bytes, and continues it when the disk has grown."""

UNCHECKED = """
import runpy, shutil, sys
from types import SimpleNamespace
shutil.disk_usage = lambda path: SimpleNamespace(free=10**12)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that believes in an endless disk: another process may fill it after it was looked at."""

OPTIONS = ("--iterations", 4, "-s", 2, "--class-img-count", 2, "--seed", 7, "--save-dtype", "fp32")
PREVIEW = "samples/pictures/step-00000_00.png"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path) -> Trained:
    """A run with these options that had room enough. It is shared: don't write to it."""
    return Teach(tmp_path_factory.mktemp("whole") / "ckpts", subject_dir, tiny_checkpoint)(*OPTIONS)


@pytest.fixture
def words(teach: Teach) -> tuple[object, ...]:
    return ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root, *OPTIONS)


def assert_whole(run: Path, whole: Trained) -> None:
    """Whether all is there that an undisturbed run has, bit for bit, and nothing more."""
    for path in (whole.step(2), whole.step(4)):
        assert equal(path, run / path.name)
    for path in whole.directory.rglob("samples/**/*.png"):
        assert difference(pixels(path), pixels(run / path.relative_to(whole.directory))) == 0
    assert {name for name in entries(run) if not name.startswith("log/")} == {
        name for name in entries(whole.directory) if not name.startswith("log/")
    }


def assert_told(outcome: Outcome, path: Path) -> None:
    """Whether the last error names the file and the system's reason."""
    refused(outcome, f"error: could not write {path}: File too large; `ulimit -f` allows files of ")


def full_while(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, size: int) -> None:
    """No file may be larger while this function runs."""
    function = getattr(owner, name)

    def limited(*given: Any, **named: Any) -> Any:
        with files_of_at_most(size):
            return function(*given, **named)

    monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize(
    "what",
    [
        RESUME_STATE,
        pytest.param("step-00002.safetensors", marks=pytest.mark.slow),
        pytest.param(PREVIEW, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_could_not_write_goes_on_when_it_can(
    what: str, words: tuple[object, ...], teach: Teach, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (whole.directory / what).stat().st_size - 100
    with monkeypatch.context() as patch:
        full_while(patch, *((Previews, "sample_untrained") if what == PREVIEW else (command, "fit")), size)
        outcome = call("dreambooth", *words)
    assert_told(outcome, teach.root / "can-1" / what)
    assert not (teach.root / "can-1" / what).exists()
    assert not [name for name in entries(teach.root) if ".partial" in name or ".tmp" in name]
    outcome = call("dreambooth", "-r", teach.root / "can-1")
    assert outcome.status == 0, outcome.said
    assert_whole(teach.root / "can-1", whole)


def test_a_record_that_can_not_be_written_leaves_no_run(
    words: tuple[object, ...], teach: Teach, whole: Trained
) -> None:
    with files_of_at_most(500):
        assert_told(call("dreambooth", *words), teach.root / "can-1" / "tokenizer" / "vocab.json")
    outcome = call("dreambooth", *words)
    assert outcome.status == 0, outcome.said
    assert [path.name for path in teach.root.glob("can-*")] == ["can-1"]
    assert_whole(teach.root / "can-1", whole)


def test_class_images_that_can_not_be_written_are_drawn_when_they_can(
    words: tuple[object, ...], teach: Teach, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = whole.root / "class-images"
    smaller = min(path.stat().st_size for path in drawn.rglob("*.png"))
    with monkeypatch.context() as patch:
        full_while(patch, command, "sample_class_images", smaller - 100)
        outcome = call("dreambooth", *words)
    refused(outcome, "could not write", "class-images", ".png: File too large")
    outcome = call("dreambooth", "-r", teach.root / "can-1")
    assert outcome.status == 0, outcome.said
    assert entries(teach.root / "class-images") == entries(drawn)
    assert_whole(teach.root / "can-1", whole)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_disk_that_fills_up_ends_a_run_that_goes_on_when_it_has_grown(
    share: float, words: tuple[object, ...], teach: Teach, whole: Trained, tmp_path: Path
) -> None:
    """A small file system in a namespace of its own, which needs no rights where the system allows it."""
    if subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", tmp_path], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    disk, script = tmp_path / "disk", TINY_DISK + f'cp -r . "{tmp_path}/kept"'
    disk.mkdir()
    size = sum(path.stat().st_size for path in whole.root.rglob("*") if path.is_file())
    command = [sys.executable, "-c", UNCHECKED, str(ROOT / "dreambooth.py"), *map(str, words), "-o", "."]
    done = subprocess.run(
        [
            "unshare",
            "-Urm",
            "sh",
            "-c",
            script,
            "sh",
            str(int(size * share)),
            disk,
            *command,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "ROOT": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "status: 2\n"
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert_whole(tmp_path / "kept" / "can-1", whole)

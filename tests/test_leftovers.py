"""What processes leave that are killed while they write is found and removed, whatever its name; nothing of others."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.leftovers import UNTOUCHED, remove_dead_runs, remove_leftovers, temporary_directory
from ldm.locking import LOCK_NAME, lock_directory
from tests.locks import another_process_has, others_may_lock

pytestmark = pytest.mark.usefixtures("unlock_afterwards")

WRITE = """
import sys
from pathlib import Path
from ldm.files import atomic_path
with atomic_path(Path(sys.argv[1])) as partial:
    partial.write_text("half of the")
    (partial.parent / ".tmpAbC123").write_text("what a library writes beside it")
    print("written", flush=True)
    sys.stdin.read()
"""
"""A program that writes a file until its input ends."""


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@contextmanager
def another_process_writes(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Meanwhile a process is in the midst of writing the file."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


def age(directory: Path, seconds: float) -> None:
    for path in (directory, *directory.rglob("*")):
        os.utime(path, (time.time() - seconds,) * 2)


def test_of_two_writers_only_what_the_dead_one_left_is_removed(tmp_path: Path) -> None:
    with another_process_writes(tmp_path / "deep" / "a.txt") as dead, another_process_writes(tmp_path / "b.txt"):
        kill(dead)
        assert len(files(tmp_path)) == 6
        remove_leftovers(tmp_path)
        assert not list((tmp_path / "deep").iterdir())
        assert len(files(tmp_path)) == 3
    assert files(tmp_path) == {"b.txt"}
    assert (tmp_path / "b.txt").read_text() == "half of the"


def test_what_this_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("a")
        remove_leftovers(tmp_path, alone=True)
        with temporary_directory(tmp_path) as other:
            assert other != partial.parent
        assert not others_may_lock(partial.parent)  # looking has not given its lock back
    assert files(tmp_path) == {"a.txt"}


def test_a_directory_that_others_take_for_a_dead_ones_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come after it is made and before it is locked."""
    lockf, made = fcntl.lockf, []

    def late(*args: object) -> None:
        if not made:
            made.extend(tmp_path.iterdir())
            (made[0] / LOCK_NAME).unlink()
            made[0].rmdir()
        lockf(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "lockf", late)
    with temporary_directory(tmp_path) as directory:
        assert directory != made[0]
        assert directory.is_dir()


@pytest.mark.parametrize("alone", [True, False])
def test_leftovers_of_earlier_versions_are_removed_in_a_locked_directory(alone: bool, tmp_path: Path) -> None:
    for name in (".a.png.123.partial", ".tmpAbC123", "a.png.partial", ".a.png", "a.png", ".tmpfile"):
        (tmp_path / name).touch()
    old = tmp_path / ".b.png.123.partial"
    old.touch()
    age(tmp_path, 0)
    os.utime(old, (time.time() - UNTOUCHED - 60,) * 2)
    remove_leftovers(tmp_path, alone=alone)
    kept = {"a.png.partial", ".a.png", "a.png", ".tmpfile"}
    assert files(tmp_path) == (kept if alone else kept | {".a.png.123.partial", ".tmpAbC123"})


def test_where_nothing_can_be_locked_only_what_is_old_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    with atomic_path(tmp_path / "a.txt") as partial:
        partial.touch()
        remove_leftovers(tmp_path)
        assert partial.exists()
        age(partial.parent, UNTOUCHED + 60)
        remove_leftovers(tmp_path)
        assert not partial.exists()
        partial.parent.mkdir()
        partial.touch()
    assert files(tmp_path) == {"a.txt"}


def test_what_can_not_be_removed_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / ".a.png.123.partial").touch()
    monkeypatch.setattr(Path, "unlink", refuse)
    remove_leftovers(tmp_path, alone=True)
    remove_leftovers(tmp_path / "gone")
    remove_dead_runs(tmp_path / "gone")


def test_runs_in_which_a_dead_process_wrote_nothing_are_removed(tmp_path: Path) -> None:
    for name in ("can-1", "can-2", "can-3", "cup-1", "cup-2", "notes-1", "sub"):
        (tmp_path / name).mkdir()
    with another_process_writes(tmp_path / "can-1" / "run.yaml") as dead:
        kill(dead)
    for name in ("can-1", "can-2", "can-3"):
        (tmp_path / name / LOCK_NAME).touch()
    (tmp_path / "can-3" / "run.yaml").touch()
    (tmp_path / "notes-1" / "mine").touch()
    with another_process_has(tmp_path / "can-2"):  # it has only begun
        remove_dead_runs(tmp_path, "cup")
    assert {path.name for path in tmp_path.iterdir()} == {"can-2", "can-3", "notes-1", "sub"}
    assert files(tmp_path) == {"can-2/.lock", "can-3/.lock", "can-3/run.yaml", "notes-1/mine"}


def test_a_run_of_this_process_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "can-1").mkdir()
    lock_directory(tmp_path / "can-1")
    remove_dead_runs(tmp_path, "can")
    assert not others_may_lock(tmp_path / "can-1")


def test_a_temporary_directory_that_can_not_be_locked_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"a\.txt: No space left on device"), atomic_path(tmp_path / "a.txt"):
        raise AssertionError("not reached")
    assert not list(tmp_path.iterdir())

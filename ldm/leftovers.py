"""Temporary directories, locked by their process: others can tell when a dead process has left one behind."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.locking import LOCK_NAME, NoLocksError, hold, release

PARTIAL_SUFFIX = ".partial"

TEMPORARY = re.compile(r"\.[a-z0-9_]{8}\.partial")
"""The names of temporary directories."""

OLD_TEMPORARY, SAFETENSORS_TEMPORARY = re.compile(r"\..+\.\d+\.partial"), re.compile(r"\.tmp\w{6}")
"""The names of temporary files of earlier versions, and of safetensors' beside them."""

UNTOUCHED = 24 * 3600.0
"""On file systems without locks, files unchanged for so many seconds count as a dead process's."""


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """Yields a hidden directory below `parent`; it is removed when the block ends.

    If the process is killed meanwhile, `remove_leftovers` finds the directory with all files in it.
    """
    directory = _locked_directory(parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        release(directory)


def _locked_directory(parent: Path) -> Path:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=".", suffix=PARTIAL_SUFFIX, dir=parent))
        try:
            if hold(directory):
                return directory
        except NoLocksError:
            return directory
        except FileNotFoundError:  # another process removed it before it was locked
            continue
        except OSError:  # such as a full disk
            shutil.rmtree(directory, ignore_errors=True)
            raise


def remove_leftovers(root: Path, *, alone: bool = False, deep: bool = True) -> None:
    """Removes files of dead processes in `root` and, if `deep`, below; none of a living one, also on other machines.

    `alone`: this process has locked `root`; then unlocked files of earlier versions are removed too. Files that can't
    be removed are left.
    """
    for directory, below, files in os.walk(root):
        for name in filter(TEMPORARY.fullmatch, list(below)):
            below.remove(name)
            _remove_if_dead(Path(directory, name), alone)
        for name in files:
            old = OLD_TEMPORARY.fullmatch(name) and (alone or _is_untouched(Path(directory, name)))
            if old or (alone and SAFETENSORS_TEMPORARY.fullmatch(name)):
                with contextlib.suppress(OSError):
                    Path(directory, name).unlink()
        if not deep:
            return


BEFORE_RUN_RECORD = {LOCK_NAME, "tokenizer"}
"""Entries of a run directory before it has a run record: a run can't be resumed from them."""


def remove_dead_runs(parent: Path, stem: str = "") -> None:
    """Removes leftovers in all run directories below `parent` (see `make_run_dir`), and directories without a run.

    Also empty directories of `stem`, which were created and not locked yet.
    """
    for directory in sorted(parent.glob("?*-*")):
        if not re.fullmatch(r".+-\d+", directory.name) or directory.is_symlink() or not directory.is_dir():
            continue
        has_lock = (directory / LOCK_NAME).is_file()
        if has_lock or re.fullmatch(re.escape(stem) + r"-\d+", directory.name):
            with contextlib.suppress(OSError, NoLocksError):
                _clean_run(directory, has_lock)


def _clean_run(directory: Path, has_lock: bool) -> None:
    if not has_lock:
        directory.rmdir()  # only if it is empty
    elif hold(directory):
        try:
            remove_leftovers(directory, alone=True)
            if {entry.name for entry in directory.iterdir()} <= BEFORE_RUN_RECORD:
                shutil.rmtree(directory)
        finally:
            release(directory)


def _remove_if_dead(directory: Path, alone: bool) -> None:
    try:
        if not hold(directory):
            return
    except NoLocksError:
        if alone or _is_untouched(directory):
            shutil.rmtree(directory, ignore_errors=True)
    except OSError:  # gone meanwhile, a file, or another user's
        return
    else:
        shutil.rmtree(directory, ignore_errors=True)
        release(directory)


def _is_untouched(path: Path) -> bool:
    """Whether the path and everything in it are unchanged for `UNTOUCHED` seconds."""
    with contextlib.suppress(OSError):
        newest = max(one.stat().st_mtime for one in (path, *path.rglob("*")))
        return time.time() - newest > UNTOUCHED
    return False

"""One process writes into a directory, and its end, however it comes, lets the next one in."""

import errno
import fcntl
import logging
import os
import threading
from pathlib import Path

import pytest

from ldm.errors import UserError
from ldm.locking import lock_directory, unlock_directories
from tests.locks import another_process_has, others_may_lock

pytestmark = pytest.mark.usefixtures("unlock_afterwards")


def test_a_second_process_is_turned_away_by_name(tmp_path: Path) -> None:
    with another_process_has(tmp_path), pytest.raises(UserError, match="is being written by another process") as error:
        lock_directory(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_process_that_removes_leftovers_blocks_no_other(tmp_path: Path) -> None:
    with another_process_has(tmp_path) as process:
        looked = threading.Timer(0.2, process.kill)
        looked.start()
        lock_directory(tmp_path)
        looked.join()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with another_process_has(tmp_path) as process:
        process.kill()
        process.wait()
        lock_directory(tmp_path)


def test_it_lasts_until_it_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    lock_directory(tmp_path)
    lock_directory(tmp_path / "x" / "..")  # the same
    assert not others_may_lock(tmp_path)
    unlock_directories()
    assert others_may_lock(tmp_path)


def test_worker_processes_do_not_keep_it(tmp_path: Path) -> None:
    lock_directory(tmp_path)
    reader, writer = os.pipe()
    if not (worker := os.fork()):
        os.close(writer)
        os.read(reader, 1)  # until the pipe is closed
        os._exit(0)
    unlock_directories()
    assert others_may_lock(tmp_path)
    os.close(writer)
    os.waitpid(worker, 0)


def test_a_file_system_without_locks_triggers_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock_directory(tmp_path)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(tmp_path) in caplog.text
    assert "No locks available" in caplog.text


def test_a_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not write .*gone"):
        lock_directory(tmp_path / "gone")

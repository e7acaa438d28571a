"""The file of a run's log on a disk that fills up."""

import logging
from pathlib import Path

import pytest

from ldm.commands.app import begin_run, run
from tests.full_disk import files_of_at_most

log = logging.getLogger("ldm.tests")


def test_a_log_that_can_not_be_written_hides_nothing_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"

    def command() -> None:
        begin_run(tmp_path, "")
        log.info("first")
        with files_of_at_most(path.stat().st_size + 2):
            log.info("second")
            log.info("third")
        log.info("fourth \udce9")

    assert run(command) == 0
    said = capsys.readouterr().err.splitlines()
    assert [said[0], said[1], said[3]] == ["first", "second", "third"]
    assert said[2].startswith(f"warning: could not write {path}: File too large")
    assert "fourth" in path.read_text()


def test_a_log_that_can_not_be_begun_is_the_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.log").mkdir()
    assert run(lambda: begin_run(tmp_path, "")) == 2
    assert "run.log: Is a directory" in capsys.readouterr().err

"""Logs of a training that can't be written: said once, and no more."""

from pathlib import Path

import pytest

from ldm.training.logs import CSVLog, EventLog, build_logger
from tests.full_disk import files_of_at_most


def test_events_that_can_not_be_written_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = build_logger("tensorboard", tmp_path)
    assert isinstance(logger, EventLog)
    with logger.no_traceback_of_its_thread():
        logger.log_metrics({"loss/total": 1.0}, 0)
        with files_of_at_most(1000):
            for step in range(1, 100):
                logger.log_metrics({"loss/total": 1.0}, step)
                logger.experiment.flush()
            logger.save()
            logger.finalize("success")
    (said,) = caplog.messages
    assert said.startswith(f"could not write {tmp_path / 'log'}: File too large")
    assert "Traceback" not in capsys.readouterr().err


def test_events_that_can_not_even_be_begun_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = build_logger("tensorboard", tmp_path)
    assert isinstance(logger, EventLog)
    with logger.no_traceback_of_its_thread(), files_of_at_most(0):
        for step in range(3):
            logger.log_metrics({"loss/total": 1.0}, step)
        logger.finalize("success")
    assert len(caplog.messages) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_rows_that_can_not_be_written_are_left_out_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = CSVLog(tmp_path / "log")
    logger.log_metrics({"loss/total": 1.25}, 1)
    with files_of_at_most(logger.path.stat().st_size + 3):
        logger.log_metrics({"loss/total": 1.5}, 2)
        logger.log_metrics({"loss/total": 1.75}, 3)
    logger.log_metrics({"loss/total": 2.0}, 4)
    assert logger.path.read_bytes() == b"step,loss/total\r\n1,1.25\r\n4,2.0\r\n"
    (said,) = caplog.messages
    assert said.startswith(f"could not write {logger.path}: File too large")

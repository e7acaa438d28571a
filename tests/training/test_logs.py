"""Loggers: what they write, a log that can't be written, and that a new one is a file and a line."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ldm.choices import LOGGERS, Choice
from ldm.processes import RANK_VARIABLE, RUN_DIR_VARIABLE
from ldm.training.logs import CSVLog, LightningLog, RunLog, build_logger
from ldm.training.tensorboard import TensorBoardLog
from tests.full_disk import files_of_at_most
from tests.training.parts import build_module, each_update, train


class JSONLinesLog(RunLog):
    """A line of JSON per logged step, and images beside it."""

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        self._append({"step": step, **values})

    def log_image(self, name: str, image: Image.Image, step: int) -> None:
        image.save(self.directory / f"{name}-{step}.png")

    def log_text(self, name: str, text: str, step: int) -> None:
        self._append({"step": step, name: text})

    def _append(self, row: Mapping[str, object]) -> None:
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def test_a_new_logger_is_a_class_and_a_line_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGGERS, "jsonl", Choice(f"{__name__}:JSONLinesLog", "a line of JSON per logged step"))
    image = Image.new("RGB", (4, 4), "red")
    module = build_module(lr_schedule="linear", max_grad_norm=0.0)
    with each_update() as updates:
        train(module, tmp_path, lambda module, step: module.run_log.log_image("red", image, step), logger="jsonl,csv")
    first, *rows = [json.loads(line) for line in (tmp_path / "log" / "log.jsonl").read_text().splitlines()]
    assert "learning_rate: 0.001" in first["config"]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(row.keys() >= {"loss/instance", "loss/class", "loss/total", "train/gradient_norm"} for row in rows)
    assert [row["train/learning_rate"] for row in rows] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert all(row["train/images_per_second"] > 0 and row["train/memory_gib"] > 0.01 for row in rows)
    assert [row["train/gradient_norm"] for row in rows] == pytest.approx(
        [one["grad_norm"] for one in updates], rel=1e-4
    )
    names = {"log.jsonl", "red-2.png", "red-4.png", "metrics.csv"}
    assert {path.name for path in (tmp_path / "log").iterdir()} == names


def test_a_csv_of_an_older_version_keeps_its_columns(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    log.path.write_bytes(b"step,loss/total\r\n1,1.5\r\n")
    log.log_scalars({"train/memory_gib": 2.0, "loss/total": 1.25}, 2)
    assert log.path.read_bytes() == b"step,loss/total\r\n1,1.5\r\n2,1.25\r\n"


def test_one_log_that_can_not_be_written_does_not_stop_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    good = CSVLog(tmp_path / "log")
    logger = LightningLog(CSVLog(tmp_path / "file" / "log"), good)
    logger.log_scalars({"loss/total": 1.5}, 1)
    logger.log_scalars({"loss/total": 1.25}, 2)
    assert good.path.read_bytes() == b"step,loss/total\r\n1,1.5\r\n2,1.25\r\n"
    assert len(caplog.messages) == 1


def test_tensorboard_shows_scalars_images_and_text(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    logger = build_logger("tensorboard", tmp_path)
    logger.log_scalars({"loss/total": 1.5}, 7)
    logger.log_image("a sheet", Image.fromarray(pixels), 7)
    logger.log_text("config", "    size: 16\n", 0)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss/total")] == [(7, 1.5)]
    (shown,) = events.Images("a sheet")
    assert (shown.step, shown.width, shown.height) == (7, 4, 4)
    assert events.Tensors("config/text_summary")[0].tensor_proto.string_val == [b"    size: 16\n"]


@pytest.mark.parametrize("name", ["none", "csv", "tensorboard"])
def test_images_and_text_go_nowhere_in_a_log_without_them(name: str, tmp_path: Path) -> None:
    logger = build_logger(name, tmp_path)
    logger.log_image("a sheet", Image.new("RGB", (4, 4)), 1)
    logger.log_text("config", "size: 16", 0)
    logger.finalize("success")
    assert (tmp_path / "log").exists() == (name == "tensorboard")


def test_only_the_first_process_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RANK_VARIABLE, "1")
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path))
    build_logger("csv", tmp_path).log_scalars({"loss/total": 1.0}, 0)
    assert not list(tmp_path.iterdir())


def test_events_that_can_not_be_written_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = build_logger("tensorboard", tmp_path)
    assert isinstance(logger.run_logs[0], TensorBoardLog)
    with logger.threads():
        logger.log_scalars({"loss/total": 1.0}, 0)
        with files_of_at_most(1000):
            for step in range(1, 30):
                logger.log_image("noise", Image.effect_noise((32, 32), 50).convert("RGB"), step)
                logger.log_scalars({"loss/total": 1.0}, step)
            logger.finalize("success")
    (warning,) = caplog.messages
    assert warning.startswith(f"could not write {tmp_path / 'log'}: File too large")
    assert "Traceback" not in capsys.readouterr().err


def test_events_that_can_not_even_be_begun_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = build_logger("tensorboard", tmp_path)
    with logger.threads(), files_of_at_most(0):
        for step in range(3):
            logger.log_scalars({"loss/total": 1.0}, step)
        logger.finalize("success")
    assert len(caplog.messages) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_rows_that_can_not_be_written_are_left_out_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = CSVLog(tmp_path / "log")
    logger = LightningLog(log)
    logger.log_metrics({"loss/total": 1.25, "epoch": 0}, 1)
    with files_of_at_most(log.path.stat().st_size + 3):
        logger.log_metrics({"loss/total": 1.5}, 2)
        logger.log_metrics({"loss/total": 1.75}, 3)
    logger.log_metrics({"loss/total": 2.0}, 4)
    assert log.path.read_bytes() == b"step,loss/total\r\n1,1.25\r\n4,2.0\r\n"
    (warning,) = caplog.messages
    assert warning.startswith(f"could not write {log.path}: File too large")

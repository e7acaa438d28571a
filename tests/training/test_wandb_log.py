"""The log for Weights & Biases, offline; without wandb, what a user is told."""

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.training.logs import build_logger, refuse_unusable_loggers
from tests.training.parts import build_module, train

HAS_WANDB = importlib.util.find_spec("wandb") is not None


BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4


def records(directory: Path) -> list[Any]:
    """What wandb has written, record by record: its file is LevelDB's log format, with protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = directory.rglob("*.wandb")
    data, place, found, parts = file.read_bytes(), HEADER, [], b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # padding
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + HEADER])
        parts += data[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (FULL, LAST):
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(directory: Path) -> list[dict[str, Any]]:
    """The logged values."""
    rows = [one.history for one in records(directory) if one.HasField("history")]
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row.item} for row in rows]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_WANDB, reason="wandb is not installed")
def test_wandb_offline_has_scalars_previews_photos_and_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir = tmp_path / "can-1"
    run_dir.mkdir()
    Image.new("RGB", (8, 8), "red").save(run_dir / "photos.png")
    image = Image.new("RGB", (4, 4), "blue")
    save = lambda module, step: module.run_log.log_image("a can", image, step)  # noqa: E731
    train(build_module(), run_dir, save, logger="wandb,csv")
    rows = history(run_dir / "log" / "wandb")
    losses = {row["update"]: row["loss/total"] for row in rows if "loss/total" in row}
    assert list(losses) == [0, 1, 2, 3] and all(loss > 0 for loss in losses.values())
    assert all("train/learning_rate" in row for row in rows if "loss/total" in row)
    logged = {(row["update"], name) for row in rows for name in row}
    assert {(0, "photos"), (2, "a can"), (4, "a can")} <= logged
    assert len(list((run_dir / "log" / "wandb").rglob("*.png"))) == 3
    assert any("learning_rate: 0.001" in str(one.config) for one in records(run_dir / "log" / "wandb"))
    assert (run_dir / "log" / "metrics.csv").is_file()


@pytest.mark.skipif(HAS_WANDB, reason="wandb is installed")
def test_without_wandb_the_error_says_what_to_install() -> None:
    with pytest.raises(UserError, match="--logger wandb needs a package: pip install wandb"):
        refuse_unusable_loggers("csv,wandb")


@pytest.mark.skipif(not HAS_WANDB, reason="wandb is not installed")
def test_without_a_key_the_error_says_how_to_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    wandb.teardown()  # it remembers the settings of its first call
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="no key to send with: call `wandb login`, or set WANDB_MODE=offline"):
        refuse_unusable_loggers("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    refuse_unusable_loggers("wandb")
    assert build_logger("wandb", tmp_path).run_logs

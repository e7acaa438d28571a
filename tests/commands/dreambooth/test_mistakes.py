"""Errors: what was wrong, in the user's words, as early as it can be known."""

import re
import shutil
from pathlib import Path

import pytest

from ldm.checkpoint.reading import read_checkpoint
from tests.commands.calls import refused
from tests.commands.dreambooth.fine_tuning import FineTune, Plan
from tests.commands.fixtures import write_photos


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-i", "nowhere"), ["no directory nowhere"]),
        (("--ckpt-path", "nowhere.ckpt"), ["no checkpoint nowhere.ckpt"]),
        (("--ckpt-path", "."), ["--ckpt-path", "directory"]),
        (("-d", "cuda:99"), ["no CUDA device 99"]),
        (("--config", "nowhere.yaml"), ["no config file nowhere.yaml"]),
        (("-r", "."), [". is no run", "run.yaml"]),
        (("--lora", 500), ["--lora 500 trains", "take a lower rank"]),
        (
            ("--fused-backward", "--gradient-accumulation", 2),
            ["--fused-backward frees", "--gradient-accumulation adds up"],
        ),
    ],
)
def test_an_error_comes_before_anything_is_written(
    arguments: tuple[object, ...], words: list[str], fine_tune: FineTune, tmp_path: Path
) -> None:
    refused(fine_tune.call(*arguments), *words)
    assert not (tmp_path / "ckpts").exists()


def test_photos_that_can_not_be_read_are_each_named_once_and_left_out(fine_tune: FineTune, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    (photos / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (photos / "notes.txt").write_text("my can")
    run = fine_tune("-i", photos, "--no-previews")
    assert "3 photos of 'can'" in run.outcome.said
    assert len(re.findall("left out.*broken.jpg", run.outcome.said)) == 1
    assert run.outcome.said.count("not used: notes.txt (text)") == 1
    assert ".DS_Store" not in run.outcome.said


@pytest.mark.parametrize(("save_dtype", "free", "fits"), [("fp16", 12, True), ("fp16", 8, False), ("fp32", 12, False)])
def test_a_run_that_would_fill_the_disk_fails_before_it_begins(
    save_dtype: str, free: int, fits: bool, fine_tune: FineTune, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 checkpoints of half precision and two resume states would need 10 of these units of space."""
    size = sum(tensor.numel() for tensor in read_checkpoint(fine_tune.checkpoint).tensors.values())
    usage = type("Usage", (), {"free": int((100 * 2 + 24) * size * free / 10)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    outcome = fine_tune.call("--iterations", 100, "-s", 1, "--save-dtype", save_dtype, "--class-img-count", 0)
    if fits:
        assert outcome.status == 0, outcome.said
    else:
        refused(outcome, "B free", "--save-every", "--output-dir")
        assert not fine_tune.root.exists()

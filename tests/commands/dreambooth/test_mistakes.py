"""Errors: what was wrong, in the user's words, as early as it can be known."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.config import to_yaml
from ldm.training.dreambooth import DreamBooth
from tests.commands.calls import refused
from tests.commands.dreambooth.fine_tuning import FineTune, Plan
from tests.commands.fixtures import write_photos
from tests.tiny import TINY_YAML


def test_a_text_encoder_without_gradient_stops_the_run_before_anything_is_saved(
    fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = DreamBooth._encode_prompts
    monkeypatch.setattr(DreamBooth, "_encode_prompts", lambda self: encode(self).detach())
    refused(fine_tune.call("-t"), "the text encoder should train but gets no gradient")
    assert not list(fine_tune.root.rglob("*.safetensors"))
    assert not list(fine_tune.root.rglob("resume.ckpt"))


def test_a_loss_that_is_not_finite_stops_the_run(fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch) -> None:
    step = DreamBooth.training_step
    monkeypatch.setattr(
        DreamBooth,
        "training_step",
        lambda self, batch, index: step(self, batch, index) * (torch.nan if self.global_step == 3 else 1.0),
    )
    outcome = fine_tune.call("--iterations", 6, "-s", 2, "--class-img-count", 0, "--no-previews")
    refused(outcome, "not finite from update 4 on", "the weights of the unet are broken", "--learning-rate")
    assert [path.name for path in sorted(fine_tune.root.rglob("*.safetensors"))] == ["step-00002.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-i", "nowhere"), ["no directory nowhere"]),
        (("--ckpt-path", "nowhere.ckpt"), ["no checkpoint nowhere.ckpt"]),
        (("--ckpt-path", "."), ["--ckpt-path", "directory"]),
        (("-d", "gpu"), ["'gpu' is no device"]),
        (("-d", "cuda:99"), ["no CUDA device 99"]),
        (("--config", "nowhere.yaml"), ["no config file nowhere.yaml"]),
        (("-r", "nowhere"), ["nowhere is no run"]),
        (("-r", "."), [". is no run", "run.yaml"]),
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


def test_a_directory_without_photos_is_named(fine_tune: FineTune, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    refused(fine_tune.call("-i", tmp_path / "photos"), f"{tmp_path / 'photos'} holds no readable image")


@pytest.mark.parametrize(("save_dtype", "free", "fits"), [("fp16", 12, True), ("fp16", 8, False), ("fp32", 12, False)])
def test_a_run_that_would_fill_the_disk_fails_before_it_begins(
    save_dtype: str,
    free: int,
    fits: bool,
    fine_tune: FineTune,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
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


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("sampling", {"sampler": "euler-maruyama"}, "sampler should be one of"),
        ("sampling", {"num_steps": 2000}, "num_steps"),
        ("dreambooth", {"save_every": 0}, "save_every"),
    ],
)
def test_an_invalid_value_in_the_yaml_is_named(
    section: str, values: dict[str, Any], words: str, fine_tune: FineTune, tmp_path: Path
) -> None:
    content = {**TINY_YAML, section: {**TINY_YAML[section], **values}}
    odd = tmp_path / "odd.yaml"
    odd.write_text(to_yaml(content))
    refused(fine_tune.call("--config", odd), "odd.yaml", words)

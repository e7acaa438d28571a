"""The straightforward loop computes what the fast one does, and the benchmark says what each optimization gives."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import benchmarks.quick_start as quick_start
import benchmarks.tools.straightforward as straightforward
from benchmarks.tools.straightforward import (
    ClassImages,
    SamplingOptimizations,
    Training,
    TrainingOptimizations,
    load,
    photos_of,
)
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.training.dreambooth_config import Subject


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the straightforward way's images."""
    monkeypatch.setattr(straightforward, "PLAIN_STEPS", 4)


Losses = Callable[[TrainingOptimizations], list[float]]


def test_optimizations_change_no_image_but_for_the_sampler(tmp_path: Path, tiny_checkpoint: Path) -> None:
    ldm, settings = load(tiny_checkpoint)
    images = {}
    optimizations = SamplingOptimizations()
    slow = replace(optimizations, guidance_in_one_pass=False, context_projected_once=False, several_at_a_time=False)
    for name, some in {"fast": optimizations, "slow": slow, "other": replace(optimizations, fewer_steps=False)}.items():
        ClassImages(ldm, settings, "a photo of a can", some).write(tmp_path / name, 2)
        images[name] = [np.asarray(Image.open(path)).astype(int) for path in photos_of(tmp_path / name)]
    assert len(images["fast"]) == 2
    assert max(abs(a - b).max() for a, b in zip(images["fast"], images["slow"], strict=True)) <= 1
    assert any((a != b).any() for a, b in zip(images["fast"], images["other"], strict=True))


@pytest.fixture
def losses(tiny_checkpoint: Path, photos: Path) -> Losses:
    def of(optimizations: TrainingOptimizations) -> list[float]:
        ldm, settings = load(tiny_checkpoint)
        training = Training(ldm, settings, Subject("can"), (photos_of(photos), photos_of(photos)), optimizations)
        found = [training.step() for _ in range(3)]
        training.end()
        assert not any(parameter.requires_grad for parameter in ldm.parameters())
        return found

    return of


@pytest.mark.slow
def test_optimizations_change_no_loss(losses: Losses) -> None:
    expected = losses(TrainingOptimizations())
    slow = TrainingOptimizations(latents_kept=False, prompts_encoded_once=False, fused_optimizer=False)
    assert losses(slow) == pytest.approx(expected, rel=1e-4)


def test_one_pass_or_two_are_the_same_loss_of_the_same_batch(
    tiny_checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randn", lambda shape, generator: torch.full(shape, 0.5))
    monkeypatch.setattr(torch, "randint", lambda high, shape, generator: torch.zeros(shape[0], dtype=torch.int64))
    found = []
    for together in (True, False):
        ldm, settings = load(tiny_checkpoint)
        optimizations = TrainingOptimizations(instance_and_class_in_one_pass=together)
        images = photos_of(photos)[:1], photos_of(photos)[1:2]
        found.append(Training(ldm, settings, Subject("can"), images, optimizations).step())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_whole_work_without_optimizations(tmp_path: Path, tiny_checkpoint: Path, photos: Path) -> None:
    flags = ["--output", tmp_path / "out", "--photos", photos, "--ckpt-path", tiny_checkpoint, "--class-images", 1]
    straightforward.main([str(flag) for flag in [*flags, "--iterations", 3]])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"class", "step-00003.safetensors", "optimizer.pt"}


@pytest.mark.slow
def test_processes_and_optimizations_are_compared(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def timed_run(*arguments: object) -> float:
        commands.append([*map(str, arguments)])
        return 10.0 if arguments[0] == "dreambooth.py" else 25.0

    monkeypatch.setattr(quick_start, "timed_run", timed_run)
    path = tmp_path / "figures.json"
    flags: list[object] = ["--ckpt-path", tiny_checkpoint, "--runs", 1, "--images", 1, "--steps", 1, "--json", path]
    assert quick_start.main([str(flag) for flag in [*flags, "--iterations", 5, "--class-images", 2]]) == 0
    output = capsys.readouterr().out
    assert "| straightforward | 25 (25 to 25) | 2.5 (2.5 to 2.5) |" in output and "1 of 1 met" in output
    typed = dreambooth_parser().parse_args(commands[0][1:])
    assert (typed.iterations, typed.class_img_count, typed.no_previews) == (5, 2, True)
    assert commands[1][-4:] == ["--iterations", "5", "--class-images", "2"]
    figures = json.loads(path.read_text())
    for phase in ("class image", "training step"):
        assert len(figures[phase]) == 6 and "without: " in [*figures[phase]][1]

"""Class images: a cache of its own for each prompt, model and setting, which is completed image by image."""

import json
import os
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data import writing
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.parallel import WorkerPool
from ldm.diffusion.sampling import SamplingConfig
from ldm.training.class_images import ClassImages
from tests.tiny import build_tiny_model
from tests.training.parts import tokenizer

SAMPLING = SamplingConfig(height=32, width=32, num_steps=2)


@pytest.fixture(scope="module")
def ldm() -> LatentDiffusion:
    model = build_tiny_model().eval()
    model.tokenizer = tokenizer()
    return model


def cache_in(root: Path, **changes: Any) -> ClassImages:
    cache = ClassImages(root, "a photo of a can", "0" * 64, SAMPLING, seed=5, precision="float32", tokenizer="1" * 64)
    return replace(cache, **changes)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


OTHER: dict[str, Any] = {
    "prompt": "a photo of a cat",
    "base_sha256": "1" * 64,
    "seed": 6,
    "precision": "bfloat16",
    "tokenizer": "2" * 64,
    "model": {"scale_factor": 1.0},
    **{
        f"sampling.{name}": replace(SAMPLING, **{name: value})
        for name, value in {
            "height": 48,
            "width": 48,
            "sampler": "plms",
            "num_steps": 3,
            "guidance_scale": 7.0,
            "eta": 0.5,
            "spacing": "karras",
            "guidance_rescale": 0.5,
        }.items()
    },
}


@pytest.mark.parametrize("field", OTHER)
def test_another_value_is_another_directory(field: str, tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    other = replace(cache, **{field.split(".")[0]: OTHER[field]})
    assert other.directory != cache.directory
    assert other.directory.parent == cache.directory.parent == tmp_path


def test_every_field_that_an_image_depends_on_is_tried_above() -> None:
    tried = {f"sampling.{field.name}" for field in fields(SamplingConfig)} | {
        field.name for field in fields(ClassImages) if field.name not in ("root", "sampling")
    }
    assert tried == set(OTHER)


def test_equal_values_share_their_directory_named_by_the_prompt(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    assert cache_in(tmp_path).directory == cache.directory
    assert cache.directory.name.startswith("a-photo-of-a-can-")


def test_prompts_that_are_spelt_alike_in_a_file_name_have_directories_of_their_own(tmp_path: Path) -> None:
    assert cache_in(tmp_path, prompt="a can!").directory != cache_in(tmp_path, prompt="a can?").directory


def test_images_are_written_with_their_prompt_and_seed(ldm: LatentDiffusion, tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    assert cache.missing(3) == [0, 1, 2]
    assert list(cache.sample(ldm, [0, 1, 2], batch_size=2)) == cache.paths(3)
    assert cache.missing(3) == []
    assert cache.missing(4) == [3]
    for index, path in enumerate(cache.paths(3)):
        image = Image.open(path)
        assert image.size == (32, 32)
        assert image.format == "PNG"
        assert image.info["ldm.prompt"] == "a photo of a can"
        assert image.info["ldm.seed"] == str(5 + index)
    assert json.loads((cache.directory / "settings.json").read_text()) == cache.key


def test_with_one_network_at_a_time_the_bits_are_the_same(
    ldm: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = cache_in(tmp_path / "together").sample(ldm, [0], batch_size=1)
    alone: list[object] = []
    real = LatentDiffusion.alone
    monkeypatch.setattr(LatentDiffusion, "alone", lambda self, network: alone.append(network) or real(self, network))
    (found,) = cache_in(tmp_path / "alone").sample(ldm, [0], batch_size=1, one_network_at_a_time=True)
    assert np.array_equal(pixels(found), pixels(expected))
    assert alone == [ldm.unet, ldm.autoencoder]


def test_images_differ_from_one_another(ldm: LatentDiffusion, tmp_path: Path) -> None:
    first, second = cache_in(tmp_path).sample(ldm, [0, 1], batch_size=2)
    assert np.abs(pixels(first) - pixels(second)).max() > 8


def test_only_deleted_images_are_sampled_again_with_the_same_bits(ldm: LatentDiffusion, tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    list(cache.sample(ldm, cache.missing(5), batch_size=5))
    before = [pixels(path) for path in cache.paths(5)]
    written = [path.stat().st_mtime_ns for path in cache.paths(5)]
    for index in (1, 4):
        cache.path(index).unlink()
    assert cache.missing(5) == [1, 4]
    sampled = list(cache.sample(ldm, cache.missing(5), batch_size=5))
    assert sampled == [cache.path(1), cache.path(4)]
    for index, path in enumerate(cache.paths(5)):
        assert np.abs(pixels(path) - before[index]).max() <= 1
        assert index in (1, 4) or path.stat().st_mtime_ns == written[index]


def test_each_image_that_was_yielded_is_on_the_disk_after_an_interruption(ldm: LatentDiffusion, tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    drawing = cache.sample(ldm, [0, 1, 2, 3], batch_size=2)
    next(drawing)
    drawing.close()  # as an interruption does
    assert cache.missing(4) == [1, 2, 3]


def test_the_next_batch_is_sampled_while_images_are_written(
    ldm: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, go = writing._write, threading.Event()

    def slow(*arguments: Any) -> None:
        assert go.wait(60)
        write(*arguments)

    monkeypatch.setattr(writing, "_write", slow)
    cache = cache_in(tmp_path)
    drawing = cache.sample(ldm, [0, 1, 2], batch_size=1)
    assert [next(drawing), next(drawing)] == cache.paths(2)
    assert cache.missing(2) == [0, 1]
    go.set()
    assert list(drawing) == [cache.path(2)]
    assert cache.missing(3) == []


def test_several_workers_sample_the_same_images(ldm: LatentDiffusion, tmp_path: Path) -> None:
    caches = [cache_in(tmp_path / str(workers)) for workers in (1, 2)]
    for cache, pool in zip(caches, (WorkerPool(), WorkerPool(workers=2, threads=torch.get_num_threads())), strict=True):
        assert list(cache.sample(ldm, [0, 1, 2, 3, 4], batch_size=2, workers=pool)) == cache.paths(5)
    for one, other in zip(*(cache.paths(5) for cache in caches), strict=True):
        assert np.array_equal(pixels(one), pixels(other))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_batches_of_one_and_of_three_give_equal_images(eta: float, ldm: LatentDiffusion, tmp_path: Path) -> None:
    caches = [cache_in(tmp_path / str(size), sampling=replace(SAMPLING, eta=eta)) for size in (1, 3)]
    for cache, size in zip(caches, (1, 3), strict=True):
        list(cache.sample(ldm, cache.missing(3), batch_size=size))
    for one, three in zip(*(cache.paths(3) for cache in caches), strict=True):
        assert np.abs(pixels(one) - pixels(three)).max() <= 1


def test_each_batch_reports_its_steps(ldm: LatentDiffusion, tmp_path: Path) -> None:
    calls: list[int] = []
    list(cache_in(tmp_path).sample(ldm, [0, 1, 2], batch_size=2, on_step=lambda: calls.append(1)))
    assert len(calls) == 2 * SAMPLING.num_steps


@pytest.mark.parametrize("damage", ["cut", "changed", "text", "empty", "another size", "a named pipe"])
def test_a_damaged_image_is_sampled_again_with_the_same_bits(
    damage: str, ldm: LatentDiffusion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cache_in(tmp_path)
    list(cache.sample(ldm, [0, 1], 1))
    before, path = pixels(cache.path(1)), cache.path(1)
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "changed":
            path.write_bytes(content[:200] + bytes(60) + content[260:])
        case "text":
            path.write_text("no image")
        case "empty":
            path.write_bytes(b"")
        case "another size":
            Image.new("RGB", (8, 8)).save(path)
        case "a named pipe":
            path.unlink()
            os.mkfifo(path)
    assert cache.missing(3) == [1, 2]
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]
    assert "sampling it again" in caplog.messages[0]
    list(cache.sample(ldm, cache.missing(2), 1))
    assert (pixels(path) == before).all()
    assert cache.missing(2) == []

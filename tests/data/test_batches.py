"""Batches for training from scratch: functions of (seed, step, device), with any number of worker processes."""

import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ldm.data.batches import DeviceShare, ImageBatches, LatentBatches, StepBatches, batch_loader
from ldm.data.captioned import find_captioned
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.errors import UserError
from tests.scratch import write_captioned
from tests.training.parts import tokenizer

SHARE = DeviceShare(seed=3, batch_size=4)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten images. They are shared: don't write to them."""
    directory = write_captioned(tmp_path_factory.mktemp("captioned") / "pictures", 10)
    return [image.path for image in find_captioned(directory)]


def image_batches(paths: list[Path], share: DeviceShare = SHARE, *, flip: bool = True) -> ImageBatches:
    return ImageBatches(paths, 8, (4, 2, 2), flip, share)


CAPTIONS = [("a cat", "the cat"), ("a dog",), ("a cow", "the cow", "one cow"), ("a hen",), ("a pig", "a sow")]


def latent_batches(share: DeviceShare = SHARE, *, views: int = 2, dropout: float = 0.25) -> LatentBatches:
    """Moments of image n in view v are all 10 n + v."""
    values = 10 * np.arange(len(CAPTIONS))[:, None] + np.arange(views)
    moments = np.broadcast_to(values[:, :, None, None, None], (len(CAPTIONS), views, 8, 2, 3)).astype(np.float16)
    return LatentBatches(moments, CAPTIONS, tokenizer(), 1000, dropout, share)


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def first(batches: StepBatches[Any], count: int, workers: int = 0) -> list[Any]:
    return list(islice(batch_loader(batches, workers), count))


def text(input_ids: Tensor) -> str:
    return str(tokenizer().clip_tokenizer.decode(input_ids, skip_special_tokens=True)).strip()


# Both kinds


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(workers: int, paths: list[Path]) -> None:
    share = replace(SHARE, start_step=2)
    for batches in (image_batches(paths, share), latent_batches(share)):
        expected = [batches.step(step) for step in range(2, 9)]
        for one, other in zip(first(batches, 7, workers), expected, strict=True):
            assert_same(one, other)


def test_batches_can_be_sent_to_other_processes(paths: list[Path]) -> None:
    """As where processes are spawned, not forked."""
    for batches in (image_batches(paths), latent_batches()):
        batches.step(0)
        assert_same(pickle.loads(pickle.dumps(batches)).step(5), batches.step(5))


# Images


def test_images_are_the_files_cropped_or_their_mirror_images(paths: list[Path]) -> None:
    originals = [to_tensor(fit_image(read_image(path), 8, 8)) for path in paths]
    batches = image_batches(paths)
    straight = mirrored = 0
    for step in range(50):
        batch = batches.step(step)
        assert batch["images"].shape == (4, 3, 8, 8)
        assert batch["noise"].shape == (4, 4, 2, 2)
        for place, image in enumerate(batch["images"]):
            original = originals[batches.orders[0](4 * step + place)]
            straight += torch.equal(image, original)
            mirrored += torch.equal(image, original.flip(-1))
    assert straight + mirrored == 200
    assert 70 < mirrored < 130


def test_without_flip_no_image_is_mirrored(paths: list[Path]) -> None:
    originals = [to_tensor(fit_image(read_image(path), 8, 8)) for path in paths]
    batches = image_batches(paths, flip=False)
    for step in range(10):
        for place, image in enumerate(batches.step(step)["images"]):
            assert torch.equal(image, originals[batches.orders[0](4 * step + place)])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_after_the_batches_before_it(workers: int, tmp_path: Path) -> None:
    directory = write_captioned(tmp_path / "pictures", 6)
    batches = image_batches([image.path for image in find_captioned(directory)], DeviceShare(seed=0, batch_size=1))
    broken = batches.paths[batches.orders[0](4)]
    broken.write_bytes(broken.read_bytes()[:60])
    found: list[Any] = []
    try:
        found.extend(islice(batch_loader(batches, workers), 5))
    except UserError as error:
        found.append(error)
    if workers == 0:
        assert str(found[-1]).startswith(f"{broken} is not a readable image")
    else:  # in place of the batch: torch would wrap it in a traceback
        *good, error = found
        assert len(good) == 4
        assert all("images" in batch for batch in good)
        assert isinstance(error, UserError)
        assert str(error).startswith(f"{broken} is not a readable image")


# Latents


def test_shapes_and_types_of_a_batch_of_latents() -> None:
    batch = latent_batches().step(0)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {  # type: ignore[attr-defined]
        "moments": ((4, 8, 2, 3), torch.float32),
        "posterior_noise": ((4, 4, 2, 3), torch.float32),
        "noise": ((4, 4, 2, 3), torch.float32),
        "timesteps": ((4,), torch.int64),
        "input_ids": ((4, 77), torch.int64),
    }


def test_each_image_of_a_batch_has_its_own_noise(paths: list[Path]) -> None:
    latents = latent_batches().step(0)
    for noise in (image_batches(paths).step(0)["noise"], latents["noise"], latents["posterior_noise"]):
        assert len(noise.unique()) == noise.numel()


def test_captions_are_the_images_own_each_about_as_often() -> None:
    batches, counts = latent_batches(dropout=0.0), Counter[tuple[int, str]]()
    for step in range(250):
        batch = batches.step(step)
        for moments, input_ids in zip(batch["moments"], batch["input_ids"], strict=True):
            counts[int(moments[0, 0, 0]) // 10, text(input_ids)] += 1
    assert set(counts) == {(index, caption) for index, captions in enumerate(CAPTIONS) for caption in captions}
    for (index, caption), count in counts.items():  # each image 200 times
        share = 200 / len(CAPTIONS[index])
        assert abs(count - share) < 4 * share**0.5, caption


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_the_share_of_empty_captions_is_the_dropout(dropout: float) -> None:
    batches = latent_batches(dropout=dropout)
    empty = sum(text(ids) == "" for step in range(250) for ids in batches.step(step)["input_ids"])
    assert abs(empty / 1000 - dropout) <= 4 * (dropout * (1 - dropout) / 1000) ** 0.5


@pytest.mark.parametrize("views", [1, 2])
def test_views_come_up_evenly(views: int) -> None:
    batches = latent_batches(views=views)
    counts = Counter(int(m[0, 0, 0]) % 10 for step in range(250) for m in batches.step(step)["moments"])
    assert set(counts) == set(range(views))
    assert all(abs(count - 1000 / views) < 70 for count in counts.values())


# Signals


class WorkerIds(StepBatches[int]):
    """Yields the process that prepared the batch, slowly."""

    def __init__(self) -> None:
        super().__init__(DeviceShare(0, 1), 1)

    def batch(self, indices: list[int], generator: torch.Generator) -> int:
        assert get_worker_info() is not None
        time.sleep(0.01)
        return os.getpid()


@pytest.fixture
def signalled() -> Iterator[tuple[Iterator[int], int]]:
    """Batches that a worker process prepares, and its id."""
    batches = iter(batch_loader(WorkerIds(), 1))
    yield batches, next(batches)
    del batches


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_outlives_the_signal_that_stops_the_training(
    number: int, signalled: tuple[Iterator[int], int]
) -> None:
    """A terminal sends Ctrl-C to all processes, and a batch system its SIGTERM."""
    batches, worker = signalled
    os.kill(worker, number)
    assert list(islice(batches, 8)) == [worker] * 8


def test_a_second_sigterm_ends_a_worker(signalled: tuple[Iterator[int], int]) -> None:
    """So that none is left behind by a training that crashed."""
    batches, worker = signalled
    os.kill(worker, signal.SIGTERM)
    list(islice(batches, 8))
    os.kill(worker, signal.SIGTERM)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(islice(batches, 100))

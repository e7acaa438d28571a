"""The default batch size: from the free memory of a GPU, elsewhere from the model's YAML."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.parallel import WorkerPool
from ldm.diffusion.sampling import SamplingConfig
from ldm.runtime import batching
from ldm.runtime.batching import MOST, SHARE, batch_that_fits, images_at_a_time, sampling_bytes, worker_pool
from ldm.runtime.models import SamplingDefaults, Settings
from tests.tiny import build_tiny_model, tiny_config

CPU = torch.device("cpu")
SAMPLING = SamplingConfig(height=64, width=64)
SETTINGS = Settings("", tiny_config(), SamplingDefaults(batch_size=7))


@cache
def needed(images: int, dtype: torch.dtype = torch.float32, guidance_scale: float = 7.5) -> int:
    return sampling_bytes(tiny_config(), replace(SAMPLING, guidance_scale=guidance_scale), images, dtype)


def fitting(
    monkeypatch: pytest.MonkeyPatch,
    free: float,
    dtype: torch.dtype = torch.float32,
    images: int = 100,
    loaded_bytes: int = 0,
) -> int:
    """The batch size on a device with so many free bytes."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), 80 * 2**30))
    return batch_that_fits(SETTINGS, SAMPLING, dtype, torch.device("cuda", 1), images, loaded_bytes)


@pytest.mark.slow
def test_images_add_up_and_half_precision_and_no_guidance_need_half() -> None:
    model = sum(weight.numel() for weight in _weights()) * 4
    each = needed(2) - needed(1)
    assert 0 < each < needed(1)
    assert needed(1) > model
    assert needed(6) == pytest.approx(needed(1) + 5 * each, rel=0.02)
    assert needed(2, torch.bfloat16) == needed(2) // 2
    assert needed(2, guidance_scale=1.0) == pytest.approx(needed(1), rel=0.02)


def _weights() -> list[torch.Tensor]:
    with torch.device("meta"):
        return list(batching.LatentDiffusion(tiny_config()).parameters())


@pytest.mark.slow
def test_as_many_as_fit_into_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "sampling_bytes", lambda model, sampling, images, dtype: needed(images, dtype))
    each = needed(2) - needed(1)
    three = (needed(1) + 2.5 * each) / SHARE
    assert fitting(monkeypatch, three) == 3
    assert fitting(monkeypatch, three, dtype=torch.bfloat16) > 6
    assert fitting(monkeypatch, 1e12) == MOST
    assert fitting(monkeypatch, 0) == 1


@pytest.mark.slow
def test_weights_that_are_loaded_already_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is as large as it would have been before they were loaded."""
    monkeypatch.setattr(batching, "sampling_bytes", lambda model, sampling, images, dtype: needed(images, dtype))
    weights = sum(weight.numel() for weight in _weights()) * 4
    free = (needed(1) + 2.1 * (needed(2) - needed(1))) / SHARE
    assert fitting(monkeypatch, free - weights, loaded_bytes=weights) == fitting(monkeypatch, free) == 3
    assert fitting(monkeypatch, free - weights) < 3


@pytest.mark.parametrize(("device", "together"), [("cpu", 1), ("cuda:1", 4), ("mps", 4)])
def test_only_on_a_cpu_each_image_goes_alone(device: str, together: int) -> None:
    assert images_at_a_time(torch.device(device), 4) == together


def test_not_more_than_there_are_and_one_needs_no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting(monkeypatch, 1e12, images=5) == 5
    monkeypatch.setattr(batching, "sampling_bytes", lambda *how: pytest.fail("it was predicted"))
    assert fitting(monkeypatch, 1e12, images=1) == 1


def test_elsewhere_the_models_default_is_taken() -> None:
    assert batch_that_fits(SETTINGS, SAMPLING, torch.float32, CPU, 100) == 7
    assert batch_that_fits(SETTINGS, SAMPLING, torch.float32, torch.device("mps"), 1) == 7


def test_on_a_cpu_small_networks_get_one_core_each_and_large_ones_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert worker_pool(build_tiny_model(), SamplingConfig(64, 64)) == WorkerPool(workers=6, threads=1)
    with torch.device("meta"):
        full_size = LatentDiffusion(LatentDiffusionConfig())
    assert worker_pool(full_size, SamplingConfig(512, 512)) == WorkerPool()  # on another device than a CPU
    monkeypatch.setattr(LatentDiffusion, "device", CPU)
    assert worker_pool(full_size, SamplingConfig(512, 512)) == WorkerPool(workers=1, threads=6)

"""The second stage from scratch: its loss by hand, which weights are trained, and that it resumes exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.config import build_config
from ldm.data.batches import DeviceShare, LatentBatch, LatentBatches
from ldm.errors import UserError
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.nn.tokenizer import load_tokenizer
from ldm.training.config import DiffusionTrainingConfig
from ldm.training.latent_diffusion import LatentDiffusionTraining, initialise
from tests.scratch import SCRATCH_YAML, build_scratch_model
from tests.simulated_capture import SimulatedCapture
from tests.tiny import write_tokenizer
from tests.training.parts import Logging, assert_same, fit_on_cpu, full_disk_at, logged_first

CAPTIONS = [("a red disc",), ("a blue disc", "a disc"), ("a green disc",)]


class Observed(Logging, LatentDiffusionTraining):
    pass


def moments() -> np.ndarray:
    """Of three images, each a quarter darker than the other, without much noise."""
    mean = np.array([-1.0, 0.0, 1.0])[:, None, None, None, None] * np.linspace(0.5, 1.5, 8)[:, None]
    mean = np.broadcast_to(mean, (3, 1, 4, 8, 8))
    return np.concatenate([mean, np.full_like(mean, -6.0)], axis=2).astype(np.float16)


Build = Callable[..., Observed]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes trainings that differ only in the given settings."""
    tokenizer_files = write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")

    def build(*, workers: int = 0, **changes: Any) -> Observed:
        ldm = build_scratch_model()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            initialise(ldm)
        ldm.tokenizer = load_tokenizer(tokenizer_files, 40)
        values = {**SCRATCH_YAML["diffusion_training"], **changes}
        config = build_config(DiffusionTrainingConfig, values, "scratch")
        return Observed(ldm, moments(), CAPTIONS, config, seed=7, workers=workers)

    return build


def batch_of(module: LatentDiffusionTraining, size: int = 4) -> LatentBatch:
    tokenizer = module.ldm.tokenizer
    assert tokenizer is not None
    return LatentBatches(moments(), CAPTIONS, tokenizer, 1000, 0.25, DeviceShare(5, size)).step(0)


@pytest.mark.parametrize("gamma", [0.0, 5.0])
@torch.no_grad()
def test_the_loss_by_hand(gamma: float, build: Build) -> None:
    """Of scaled latents sampled from their posterior, each at its own timestep, weighted by min(SNR, 5) / SNR."""
    module = build(min_snr_gamma=gamma)
    torch.nn.init.normal_(module.ldm.unet.out[2].weight, std=0.1)
    object.__setattr__(module.ldm.config, "scale_factor", 1.7)
    batch = batch_of(module)
    batch["timesteps"] = torch.tensor([3, 200, 600, 999])
    total = module.training_step(batch, 0).item()
    latents = 1.7 * DiagonalGaussian(batch["moments"]).sample(batch["posterior_noise"])
    context = module.ldm.text_encoder(batch["input_ids"])
    plain, weighted = [], []
    for index, timestep in enumerate(batch["timesteps"].tolist()):
        kept = module.ldm.schedule.alphas_cumprod[timestep].item()
        noisy = kept**0.5 * latents[index] + (1 - kept) ** 0.5 * batch["noise"][index]
        eps = module.ldm.unet(noisy[None], torch.tensor([timestep]), context[index : index + 1])[0]
        plain.append((eps - batch["noise"][index]).square().mean().item())
        snr = kept / (1 - kept)
        weighted.append(plain[-1] * (min(snr, gamma) / snr if gamma else 1.0))
    assert total == pytest.approx(sum(weighted) / 4, rel=1e-4)
    assert (total == pytest.approx(sum(plain) / 4, rel=1e-3)) == (gamma == 0.0)
    expected = {"loss/eps": sum(plain) / 4, "loss/total": sum(weighted) / 4}
    assert logged_first(module) == pytest.approx(expected, rel=1e-4)


def test_it_begins_by_predicting_no_noise(build: Build) -> None:
    """The last layer is zero, so that the loss begins with the noise's variance."""
    module = build(min_snr_gamma=0.0)
    assert module.training_step(batch_of(module, 64), 0).item() == pytest.approx(1.0, abs=0.05)
    embeddings = [m for m in module.ldm.text_encoder.modules() if isinstance(m, torch.nn.Embedding)]
    assert [round(embedding.weight.std().item(), 2) for embedding in embeddings] == [0.02] * len(embeddings)
    assert embeddings


@pytest.mark.slow
@pytest.mark.parametrize("train_text_encoder", [True, False])
def test_these_parts_move_and_no_others(train_text_encoder: bool, build: Build, tmp_path: Path) -> None:
    module = build(train_text_encoder=train_text_encoder)
    before = {name: weight.clone() for name, weight in module.ldm.state_dict().items()}
    fit_on_cpu(module, tmp_path)
    moved = {
        name.split(".")[0] for name, weight in module.ldm.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert moved == {"model"} | ({"cond_stage_model"} if train_text_encoder else set())
    kept = torch.load(tmp_path / "resume.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in kept if "first_stage_model" in name]
    assert any("text_encoder" in name for name in kept) == train_text_encoder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_an_interrupted_training_resumes_to_the_very_same_weights(workers: int, build: Build, tmp_path: Path) -> None:
    whole = build(workers=workers)
    fit_on_cpu(whole, tmp_path / "whole")
    with pytest.raises(UserError, match="the disk is full"):
        fit_on_cpu(build(workers=workers), tmp_path / "run", full_disk_at(6))
    continued = build(workers=workers)
    fit_on_cpu(continued, tmp_path / "run")
    assert vars(continued)["logged"]["loss/eps"] == vars(whole)["logged"]["loss/eps"][3:]
    assert_same(continued, whole)


@pytest.mark.slow
def test_graphed_steps_train_as_eager_ones_do(build: Build, tmp_path: Path) -> None:
    eager, graphed = build(), build()
    simulation = SimulatedCapture(graphed.trained_parameters())
    fit_on_cpu(eager, tmp_path / "eager")
    fit_on_cpu(graphed, tmp_path / "graphed", capture=simulation)
    assert simulation.replayed == graphed.config.iterations
    logs = [vars(module)["logged"] for module in (graphed, eager)]
    for log in logs:
        assert log.pop("train/images_per_second")  # differs with each run
    assert logs[0] == logs[1]
    assert_same(graphed, eager)


@pytest.mark.slow
def test_training_lowers_the_error(build: Build, tmp_path: Path) -> None:
    """The averaged weights predict a fixed batch's noise with less than 0.6 of the error that they began with."""
    module = build(iterations=60, save_every=60, learning_rate=1e-2, batch_size=8, min_snr_gamma=0.0, ema_decay=0.8)
    batch = batch_of(module, 32)
    with torch.no_grad():
        before = module.training_step(batch, 0).item()
    fit_on_cpu(module, tmp_path)
    module._trainer = None
    with torch.no_grad(), module.average.swapped_in():
        after = module.training_step(batch, 0).item()
    assert after < 0.6 * before


@pytest.mark.parametrize("prompts", [[], ["a red disc"]])
def test_sampling_needs_memory_only_with_prompts(prompts: list[str], build: Build) -> None:
    assert bool(build(sample_prompts=prompts).sampled_pixels) == bool(prompts)

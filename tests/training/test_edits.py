"""Training edits: the widened input, the batches with their dropout, the loss by hand, and exact resuming."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.data.batches import DeviceShare, EditBatches
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.nn.tokenizer import PromptTokenizer, load_tokenizer
from ldm.training.config import EditTrainingConfig
from ldm.training.edits import EditTraining, widen_input
from tests.scratch import build_scratch_model
from tests.tiny import write_tokenizer
from tests.training.parts import Logging, assert_same, fit_on_cpu, full_disk_at

INSTRUCTIONS = [("make it red",), ("make it blue", "turn it blue"), ("make it green",)]
PAIRS = len(INSTRUCTIONS)


class Observed(Logging, EditTraining):
    pass


def moments() -> np.ndarray:
    """Of three pairs and their mirror images; all differ, and the posteriors hardly have noise."""
    mean = np.arange(2 * PAIRS * 2, dtype=np.float32).reshape(2 * PAIRS, 2, 1, 1, 1) / 5 * np.ones((4, 8, 8))
    return np.concatenate([mean, np.full_like(mean, -20.0)], axis=2).astype(np.float16)


def narrow() -> LatentDiffusion:
    ldm = build_scratch_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        torch.nn.init.normal_(ldm.unet.out[2].weight, std=0.1)
    return ldm


def widened(tokenizer: PromptTokenizer) -> LatentDiffusion:
    ldm = narrow()
    ldm.tokenizer = tokenizer
    widen_input(ldm, replace(ldm.config, unet=replace(ldm.config.unet, in_channels=8)))
    return ldm


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")), 40)


def build(tokenizer: PromptTokenizer, **changes: object) -> Observed:
    values: dict[str, object] = {"iterations": 6, "save_every": 3, "batch_size": 4, "size": 16, **changes}
    config = EditTrainingConfig(**values)  # type: ignore[arg-type]
    return Observed(widened(tokenizer), moments(), INSTRUCTIONS, config, seed=5)


def batches(tokenizer: PromptTokenizer, size: int, dropout: float) -> EditBatches:
    return EditBatches(moments(), INSTRUCTIONS, tokenizer, 1000, dropout, DeviceShare(5, size))


@torch.no_grad()
def test_new_input_channels_change_nothing_at_first(tokenizer: PromptTokenizer) -> None:
    generator = torch.Generator().manual_seed(2)
    x, image = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    t, context = torch.tensor([3, 700]), torch.randn(2, 40, 16, generator=generator)
    eps = widened(tokenizer).predict_eps(x, t, context, image)
    torch.testing.assert_close(eps, narrow().predict_eps(x, t, context), rtol=0, atol=1e-5)
    assert eps.std() > 0.05


def test_a_batch_has_both_images_of_a_pair_in_the_same_view(tokenizer: PromptTokenizer) -> None:
    batch = batches(tokenizer, 64, 0.0).step(0)
    edited, given = batch["moments"][:, 0, 0, 0], batch["image_latents"][:, 0, 0, 0]
    torch.testing.assert_close(given - edited, torch.full((64,), 2 * PAIRS / 5), rtol=0, atol=2e-3)
    assert len(edited.unique()) == 2 * PAIRS, "images and their mirror images"


def test_the_papers_dropout(tokenizer: PromptTokenizer) -> None:
    """5 % without instruction, 5 % without image, 5 % without both."""
    batch = batches(tokenizer, 4000, 0.05).step(0)
    empty = tokenizer([""])[0]
    text, image = (batch["input_ids"] == empty).all(dim=1), (batch["image_latents"] == 0).flatten(1).all(dim=1)
    shares = [(one.float().mean().item()) for one in (text & ~image, image & ~text, text & image)]
    assert shares == pytest.approx([0.05] * 3, abs=0.012)


@torch.no_grad()
def test_the_loss_by_hand(tokenizer: PromptTokenizer) -> None:
    """Of the scaled latents of the edited image; those of the image to edit are beside them, unscaled."""
    module = build(tokenizer)
    torch.nn.init.normal_(module.ldm.unet.input_blocks[0][0].weight, std=0.1)  # type: ignore[index]
    object.__setattr__(module.ldm.config, "scale_factor", 1.7)
    batch = batches(tokenizer, 4, 0.0).step(0)
    latents = 1.7 * DiagonalGaussian(batch["moments"]).sample(batch["posterior_noise"])
    noisy = module.ldm.schedule.add_noise(latents, batch["noise"], batch["timesteps"])
    context = module.ldm.text_encoder(batch["input_ids"])
    eps = module.ldm.predict_eps(noisy, batch["timesteps"], context, batch["image_latents"])
    expected = (eps - batch["noise"]).square().mean().item()
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_only_the_unet_moves_and_an_interrupted_training_resumes_to_the_same_weights(
    tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    whole = build(tokenizer)
    before = {name: weight.clone() for name, weight in whole.ldm.state_dict().items()}
    fit_on_cpu(whole, tmp_path / "whole")
    moved = {name.split(".")[0] for name, one in whole.ldm.state_dict().items() if not torch.equal(one, before[name])}
    assert moved == {"model"}
    with pytest.raises(UserError, match="the disk is full"):
        fit_on_cpu(build(tokenizer), tmp_path / "run", full_disk_at(6))
    continued = build(tokenizer)
    fit_on_cpu(continued, tmp_path / "run")
    assert_same(continued, whole)

"""Every tensor of a computation is on the model's device.

The meta device stands in for an accelerator. It computes no numbers, but its sums, norms and attention refuse to mix
with tensors on the CPU; its matrix products do not, so this finds most mistakes and not all.
"""

from pathlib import Path

import pytest
import torch

from ldm.checkpoint.loading import Placement, load_model
from ldm.diffusion.guidance import classifier_free, guided_eps
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.samplers import SAMPLERS
from ldm.nn.tokenizer import load_tokenizer
from ldm.training.dreambooth import DreamBooth
from ldm.training.dreambooth_config import DreamBoothConfig, Subject
from tests.each_sampler import EACH_SAMPLER
from tests.tiny import tiny_config

META = torch.device("meta")


@pytest.fixture
def ldm(tiny_checkpoint: Path) -> LatentDiffusion:
    model = load_model(tiny_checkpoint, tiny_config(), Placement(META))
    model.tokenizer = load_tokenizer(tiny_checkpoint.parent / "tokenizer")
    return model


def test_meta_refuses_to_mix_with_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(4, 3, device=META) + torch.ones(4, 3)


def test_all_weights_and_buffers_are_there(ldm: LatentDiffusion) -> None:
    tensors = {**dict(ldm.named_parameters()), **dict(ldm.named_buffers())}
    assert [name for name, tensor in tensors.items() if tensor.device != META] == []


def test_prompts_are_encoded_there(ldm: LatentDiffusion) -> None:
    assert ldm.encode_prompts(["a cat"]).device == META


def test_images_are_encoded_and_decoded_there(ldm: LatentDiffusion) -> None:
    latents = ldm.sample_posterior(ldm.encode_posterior(torch.zeros(1, 3, 32, 32)), torch.zeros(1, 4, 4, 4))
    assert latents.device == META
    assert ldm.decode_latents(latents).device == META


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_SAMPLER)
def test_every_sampler_works_there(ldm: LatentDiffusion, name: str) -> None:
    eps_fn = guided_eps(ldm.predictor, classifier_free(ldm.encode_prompts(["a cat"]), ldm.encode_prompts([""]), 7.5))
    latents = SAMPLERS[name].sample(eps_fn, torch.zeros(1, 4, 4, 4, device=META), ldm.schedule, num_steps=5)
    assert latents.device == META


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_a_training_step_works_there(ldm: LatentDiffusion, train_text_encoder: bool) -> None:
    moments = torch.zeros(2, 1, 8, 4, 4)
    config = DreamBoothConfig(train_text_encoder=True)
    module = DreamBooth(ldm, Subject("cat"), moments, moments, config, seed=0).to(META)
    if not train_text_encoder:
        module._contexts = torch.zeros(2, 77, 32, device=META)  # as those that are encoded once
    batch = {
        "moments": torch.zeros(2, 8, 4, 4, device=META),
        "posterior_noise": torch.zeros(2, 4, 4, 4, device=META),
        "noise": torch.zeros(2, 4, 4, 4, device=META),
        "timesteps": torch.zeros(2, dtype=torch.int64, device=META),
    }
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    assert module.training_step(batch, 0).device == META  # type: ignore[arg-type]

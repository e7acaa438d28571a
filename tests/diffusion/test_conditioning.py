"""Sampling with more than a prompt: an image beside the latents, as InstructPix2Pix and inpainting models take."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from ldm.diffusion.guidance import Conditioning, Guidance, classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.sampling import SamplingConfig, sample_images, sample_latents
from ldm.errors import UserError
from ldm.runtime.batching import sampling_bytes
from tests.tiny import build_tiny_model, tiny_config

CONFIG = SamplingConfig(height=32, width=32, num_steps=3)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def ldm() -> LatentDiffusion:
    """The tiny model with a UNet of 8 input channels: noisy latents, then those of the image to edit."""
    config = dataclasses.replace(tiny_config(), unet=dataclasses.replace(tiny_config().unet, in_channels=8))
    torch.manual_seed(0)
    model = LatentDiffusion(config)
    nn.init.normal_(model.unet.out[2].weight, std=0.02)
    return model.eval().requires_grad_(False)


IMAGE_SCALE, TEXT_SCALE = 1.5, 7.5


def edit(ldm: LatentDiffusion, image: Tensor, context: Tensor, uncond_context: Tensor) -> Guidance:
    """InstructPix2Pix (arXiv 2211.09800, eq. 3): how to follow the image and the instruction."""
    latents = ldm.encode_posterior(image).mean
    nothing = torch.zeros_like(latents)
    return [
        (1.0 - IMAGE_SCALE, Conditioning(uncond_context, nothing)),
        (IMAGE_SCALE - TEXT_SCALE, Conditioning(uncond_context, latents)),
        (TEXT_SCALE, Conditioning(context, latents)),
    ]


CONTEXT, UNCOND = noise(1, 77, 32, seed=1), noise(1, 77, 32, seed=2)
IMAGES = [noise(1, 3, 32, 32, seed=seed).clamp(-1, 1) for seed in (3, 4)]


@torch.inference_mode()
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_beside_the_latents_decides_what_is_sampled(sampler: str, ldm: LatentDiffusion) -> None:
    config = dataclasses.replace(CONFIG, sampler=sampler)
    one, again, other = (
        sample_images(ldm, edit(ldm, image, CONTEXT, UNCOND), [5], config) for image in (IMAGES[0], *IMAGES)
    )
    assert one.shape == (1, 3, 32, 32)
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 0.01


@torch.inference_mode()
def test_each_step_is_the_weighted_sum_of_three_predictions(ldm: LatentDiffusion) -> None:
    config, start = dataclasses.replace(CONFIG, num_steps=1), ldm.schedule.spaced_alphas(1)[0][0]
    guidance = edit(ldm, IMAGES[0], CONTEXT, UNCOND)
    first: list[Tensor] = []
    sample_latents(ldm, guidance, [5], config, callback=lambda step, latents, pred_x0: first.append(pred_x0))
    x, timesteps = noise(4, 4, 4, seed=5)[None], torch.tensor(ldm.schedule.spaced_timesteps(1))
    eps = sum(weight * ldm.predict_eps(x, timesteps, one.context, one.concat) for weight, one in guidance)
    torch.testing.assert_close(first[0], (x - (1 - start) ** 0.5 * eps) / start**0.5, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_missing_image_and_one_for_a_plain_model_are_refused(ldm: LatentDiffusion) -> None:
    with pytest.raises(UserError, match="takes 4 channels besides the latents, and 0 were given"):
        sample_latents(ldm, classifier_free(CONTEXT, UNCOND, 2.0), [5], CONFIG)
    with pytest.raises(UserError, match="takes 0 channels besides the latents, and 4 were given"):
        sample_latents(build_tiny_model(), edit(ldm, IMAGES[0], CONTEXT, UNCOND), [5], CONFIG)


@pytest.mark.slow
def test_the_memory_of_a_model_with_further_channels_is_predicted(ldm: LatentDiffusion) -> None:
    assert sampling_bytes(ldm.config, CONFIG, 1, torch.float32) > sampling_bytes(
        tiny_config(), CONFIG, 1, torch.float32
    )

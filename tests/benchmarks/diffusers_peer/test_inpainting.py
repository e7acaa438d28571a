"""A model for inpainting, of 9 input channels, beside diffusers' pipeline: the same weights, noise, image and mask."""

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline

from benchmarks.diffusers_peer.networks import build_peer
from benchmarks.diffusers_peer.sampling import build_pipeline
from benchmarks.tools.sizes import TINY, Size, build_random
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.sampling import InitImage, SamplingConfig, decode_images, sample_latents

INPAINTING = Size("inpainting", {**TINY, "unet": {**TINY["unet"], "in_channels": 9}}, 32)


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore")
def test_images_are_those_of_diffusers() -> None:
    ldm = build_random(INPAINTING)
    pipeline = build_pipeline(build_peer(ldm, INPAINTING), ldm, StableDiffusionInpaintPipeline)
    context, uncond_context = ldm.encode_prompts(["a can"]), ldm.encode_prompts([""])
    image, mask = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1, torch.zeros(1, 32, 32)
    mask[:, 5:23, 9:28] = 1  # no multiples of a latent's 8 pixels
    guidance = classifier_free(context, uncond_context, 7.5)
    latents = sample_latents(ldm, guidance, [3], SamplingConfig(32, 32, num_steps=5), InitImage(image, 1.0, mask=mask))
    ours = (decode_images(ldm, latents) + 1) / 2
    (generator,) = image_generators([3])
    noise, _ = (draw_noise((1, 4, 4, 4), [generator]) for _ in range(2))  # the third draw is of the masked image
    theirs = pipeline(
        prompt_embeds=context,
        negative_prompt_embeds=uncond_context,
        image=(image[None] + 1) / 2,
        mask_image=mask[None],
        latents=noise,
        generator=generator,
        height=32,
        width=32,
        strength=1.0,
        num_inference_steps=5,
        guidance_scale=7.5,
        output_type="pt",
    ).images
    assert (ours - theirs).abs().max() < 1e-4

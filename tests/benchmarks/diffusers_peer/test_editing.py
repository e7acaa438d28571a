"""A model that edits by instruction, of 8 input channels, beside diffusers' pipeline: the same weights and noise."""

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline

from benchmarks.diffusers_peer.networks import build_peer
from benchmarks.diffusers_peer.sampling import build_pipeline
from benchmarks.tools.sizes import TINY, Size, build_random
from ldm.diffusion.editing import edit_guidance
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.sampling import SamplingConfig, decode_images, sample_latents

EDITING = Size("editing", {**TINY, "unet": {**TINY["unet"], "in_channels": 8}}, 32)


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore")
def test_images_are_those_of_diffusers() -> None:
    ldm = build_random(EDITING)
    pipeline = build_pipeline(build_peer(ldm, EDITING), ldm, StableDiffusionInstructPix2PixPipeline)
    context, uncond_context = ldm.encode_prompts(["make it red"]), ldm.encode_prompts([""])
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    guidance = edit_guidance(context, uncond_context, ldm.encode_posterior(image[None]).mean, 7.5, 1.5)
    ours = (decode_images(ldm, sample_latents(ldm, guidance, [3], SamplingConfig(32, 32, num_steps=5))) + 1) / 2
    theirs = pipeline(
        prompt_embeds=context,
        negative_prompt_embeds=uncond_context,
        image=(image[None] + 1) / 2,
        latents=draw_noise((1, 4, 4, 4), image_generators([3])),
        num_inference_steps=5,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        output_type="pt",
    ).images
    assert (ours - theirs).abs().max() < 1e-4
    assert ours.std() > 0.01

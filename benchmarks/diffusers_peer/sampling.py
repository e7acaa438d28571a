"""diffusers' pipeline with the same weights: with its defaults, and with its documentation's advice for speed."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from benchmarks.diffusers_peer.configs import scheduler_config
from benchmarks.diffusers_peer.networks import Networks, build_peer, difference
from benchmarks.tools.sizes import Size
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.errors import UserError

COMPILE_MODES = ("off", "default", "reduce-overhead", "max-autotune")
"""torch.compile's, for `tune_pipeline`."""

PICTURE_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Of whole images in [0, 1], as `difference`."""


def build_pipeline(networks: Networks, ldm: LatentDiffusion, kind: Any = StableDiffusionPipeline) -> Any:
    """A pipeline with its defaults, but with DDIM, so that both sides have the same timesteps.

    No safety checker, no progress bar. `kind`: diffusers' class.
    """
    pipeline = kind(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=networks.tokenizer,
        unet=networks.unet,
        scheduler=DDIMScheduler(**scheduler_config(ldm.config), clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_pipeline(directory: Path, ldm: LatentDiffusion, size: Size) -> Path:
    """Writes the same weights in diffusers' layout, in float32; returns the directory."""
    build_pipeline(build_peer(ldm, size), ldm).save_pretrained(directory)
    return directory


def tune_pipeline(pipeline: Any, compile_mode: str) -> Any:
    """The same pipeline with the advice of its documentation: channels_last, fused projections, compiled networks.

    UNet and decoder are compiled in one of the `COMPILE_MODES`. Attention is PyTorch's
    `scaled_dot_product_attention` in any case.
    """
    pipeline.fuse_qkv_projections()
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    if compile_mode != "off":
        pipeline.unet = torch.compile(pipeline.unet, mode=compile_mode, fullgraph=True, dynamic=False)
        pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode=compile_mode, fullgraph=True, dynamic=False)
    return pipeline


def sample_class_images(
    pipeline: Any, prompt: str, count: int, num_steps: int, pixels: int, directory: Path, first: int = 0
) -> None:
    """One batch, as the reference makes class images: by the pipeline, with guidance, written as JPEG.

    The first of them has the number `first`.
    """
    images = pipeline(
        [prompt] * count, num_inference_steps=num_steps, guidance_scale=7.5, height=pixels, width=pixels
    ).images
    directory.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, first):
        image.save(directory / f"{number:05d}.jpg")


def assert_same_image(ldm: LatentDiffusion, pipeline: Any, pixels: int, num_steps: int = 3) -> float:
    """The `difference` of an image that both sample from the same noise. Raises `UserError` if it is large."""
    sampling = SamplingConfig(height=pixels, width=pixels, num_steps=num_steps)
    prompt, seed = "a photo of sks can", 42
    contexts = ldm.encode_prompts([prompt]), ldm.encode_prompts([""])
    ours = sample_images(ldm, classifier_free(*contexts, sampling.guidance_scale), [seed], sampling)
    noise = draw_noise((1, *ldm.config.latent_shape(pixels, pixels)), image_generators([seed]))
    theirs = pipeline(
        prompt,
        height=pixels,
        width=pixels,
        num_inference_steps=num_steps,
        guidance_scale=sampling.guidance_scale,
        latents=noise.to(ldm.device, ldm.unet.dtype),
        output_type="pt",
    ).images
    found = difference((ours + 1) / 2, theirs.cpu())
    if not found < PICTURE_TOLERANCE[ldm.unet.dtype]:
        raise UserError(f"the images of both sides differ by {found:.2g}; to compare their speed is worthless")
    return found

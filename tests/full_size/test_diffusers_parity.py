"""Stable Diffusion v1 at full size, random weights: the same numbers and images as diffusers, from the same files."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.checkpoint.loading import Placement, load_model
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.saving import checkpoint_writer
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.nn.tokenizer import load_tokenizer
from tests.full_size.conftest import CLIP_TOKENIZER

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("memory")]

CPU = Placement(torch.device("cpu"))
PIPELINE_CONFIG = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "scheduler/scheduler_config.json": {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 2,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "out_channels": 3,
        "sample_size": 512,
    },
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    },
    "tokenizer/tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77},
}


@pytest.fixture(scope="module")
def pipeline_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration directory that diffusers would fetch from its hub."""
    directory = tmp_path_factory.mktemp("config")
    for name, content in PIPELINE_CONFIG.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    for name in ("vocab.json", "merges.txt"):
        (directory / "tokenizer" / name).symlink_to(CLIP_TOKENIZER / name)
    return directory


def load_ours(path: Path) -> LatentDiffusion:
    ldm = load_model(path, LatentDiffusionConfig(), CPU)
    ldm.tokenizer = load_tokenizer(CLIP_TOKENIZER)
    return ldm


def rel(a: Tensor, reference: Tensor) -> float:
    return ((a - reference).abs().max() / reference.abs().max()).item()


@torch.inference_mode()
def test_unet_and_autoencoder_equal_diffusers_from_the_same_official_file(
    weights_dir: Path, pipeline_config: Path
) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    path = weights_dir / "official.safetensors"
    ours = load_ours(path)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 16, generator=generator)
    context = torch.randn(2, 77, 768, generator=generator)
    timesteps = torch.tensor([7, 981])
    eps = ours.predict_eps(latents, timesteps, context)

    where = {"config": str(pipeline_config), "local_files_only": True}
    unet = UNet2DConditionModel.from_single_file(str(path), subfolder="unet", **where)
    assert rel(eps, unet(latents, timesteps, context).sample) < 1e-5
    del unet

    images = torch.rand(1, 3, 64, 128, generator=generator) * 2 - 1
    vae = AutoencoderKL.from_single_file(str(path), subfolder="vae", **where)
    assert rel(ours.autoencoder.encode(images).parameters, vae.encode(images).latent_dist.parameters) < 1e-5
    assert rel(ours.autoencoder.decode(latents[:1]), vae.decode(latents[:1]).sample) < 1e-5


@torch.inference_mode()
def test_a_file_written_by_us_opens_in_diffusers_and_samples_the_same_image(
    weights_dir: Path, pipeline_config: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    path = tmp_path / "step-00200.safetensors"
    checkpoint_writer(path, load_ours(weights_dir / "sd-v1-4.ckpt"), CheckpointInfo(step=200), torch.float16)()
    prompt, negative, seed = "a photo of sks can", "blurry", 42

    ours = load_ours(path)
    ours_sampled = sample_images(
        ours,
        classifier_free(ours.encode_prompts([prompt]), ours.encode_prompts([negative]), 7.5),
        [seed],
        SamplingConfig(height=64, width=128, num_steps=5),
    )
    pipeline = StableDiffusionPipeline.from_single_file(
        str(path), config=str(pipeline_config), local_files_only=True, torch_dtype=torch.float32
    )
    theirs = pipeline(
        prompt,
        negative_prompt=negative,
        height=64,
        width=128,
        num_inference_steps=5,
        guidance_scale=7.5,
        latents=draw_noise((1, 4, 8, 16), image_generators([seed])),
        output_type="pt",
    ).images
    assert (ours_sampled.std() > 0.1).item(), "a flat image would prove nothing"
    assert ((ours_sampled + 1) / 2 - theirs).abs().max() < 1e-3

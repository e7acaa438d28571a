"""diffusers' own directories and files against ours: the same images, whoever wrote what the other reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.diffusers_peer.configs import scheduler_config, text_config
from ldm.checkpoint.diffusers_names import diffusers_names, from_official
from ldm.checkpoint.diffusers_writing import unet_config, vae_config
from ldm.checkpoint.loading import Placement
from ldm.checkpoint.reading import read_checkpoint
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from ldm.diffusion.noise import draw_noise, image_generators
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.runtime.models import ModelSlot, settings_of
from tests.commands.calls import call
from tests.tiny import tiny_config, write_tiny_checkpoint, write_tokenizer

pytestmark = pytest.mark.slow

PROMPT, NEGATIVE, SEED = "a photo of sks can", "blurry", 42


def their_image(pipeline: Any, size: tuple[int, int]) -> Tensor:
    height, width = size
    pipeline.set_progress_bar_config(disable=True)
    images: Tensor = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=height,
        width=width,
        num_inference_steps=5,
        guidance_scale=7.5,
        latents=draw_noise((1, 4, height // 8, width // 8), image_generators([SEED])),
        output_type="pt",
    ).images
    return images


@torch.inference_mode()
def our_image(path: Path, size: tuple[int, int]) -> Tensor:
    file = read_checkpoint(path)
    ldm = ModelSlot(Placement(torch.device("cpu"))).use(file, settings_of(file, None)[1])
    guidance = classifier_free(ldm.encode_prompts([PROMPT]), ldm.encode_prompts([NEGATIVE]), 7.5)
    sampled = sample_images(ldm, guidance, [SEED], SamplingConfig(height=size[0], width=size[1], num_steps=5))
    assert sampled.std() > 0.05, "a flat image would prove nothing"
    return (sampled.clamp(-1, 1) + 1) / 2


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other.clamp(0, 1)).abs().max())


def random_pipeline(directory: Path, **unet: Any) -> Any:
    """A pipeline of diffusers' own making; random weights that hardly damp their input."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    config = tiny_config()
    torch.manual_seed(3)
    scheduler = {**scheduler_config(config), "clip_sample": False, "set_alpha_to_one": False}
    tokenizer = CLIPTokenizer.from_pretrained(str(write_tokenizer(directory / "tokenizer")), model_max_length=77)
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**vae_config(config, 32)),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text_config(config))),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**{**unet_config(config, 32), **unet}),
        scheduler=DDIMScheduler(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


SAVED: dict[str, dict[str, Any]] = {
    "safetensors": {},
    "sharded variant": {"max_shard_size": "300KB", "variant": "fp16"},
    "pickles": {"safe_serialization": False},
}


def test_the_names_and_shapes_at_full_size_are_diffusers_own() -> None:
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel

    config = LatentDiffusionConfig()
    with init_empty_weights():
        networks = {
            "unet": UNet2DConditionModel(**unet_config(config, 512)),
            "vae": AutoencoderKL(**vae_config(config, 512)),
        }
    theirs = {
        f"{folder}/{name}": weight.shape
        for folder, network in networks.items()
        for name, weight in network.state_dict().items()
    }
    meta = {key: torch.empty(shape, device="meta") for key, shape in shapes_of(config).items()}
    ours = from_official(meta, diffusers_names(config))
    assert {name: tensor.shape for name, tensor in ours.items() if not name.startswith("text")} == theirs


@pytest.mark.parametrize("saved", SAVED)
def test_what_diffusers_saves_samples_its_image_here(saved: str, tmp_path: Path) -> None:
    pipeline = random_pipeline(tmp_path)
    pipeline.save_pretrained(tmp_path / "theirs", **SAVED[saved])
    assert difference(our_image(tmp_path / "theirs", (32, 32)), their_image(pipeline, (32, 32))) < 1e-4


def test_another_number_of_heads_is_computed_as_there(tmp_path: Path) -> None:
    pipeline = random_pipeline(tmp_path, attention_head_dim=2)
    with torch.no_grad():  # attention that matters
        for name, weight in pipeline.unet.named_parameters():
            if ".to_q." in name or ".to_v." in name or ".to_out." in name:
                weight.mul_(6)
    pipeline.save_pretrained(tmp_path / "theirs")
    ours, theirs = our_image(tmp_path / "theirs", (32, 32)), their_image(pipeline, (32, 32))
    assert difference(ours, theirs) < 1e-4
    config = tmp_path / "theirs" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"attention_head_dim": 2', '"attention_head_dim": 4'))
    assert difference(our_image(tmp_path / "theirs", (32, 32)), theirs) > 1e-3, "heads change nothing: no proof"


def test_what_convert_writes_samples_our_image_there(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    source = write_tiny_checkpoint(tmp_path)
    assert call("convert", source, tmp_path / "ours").status == 0
    ours = our_image(source, (32, 32))
    there = StableDiffusionPipeline.from_pretrained(str(tmp_path / "ours"), local_files_only=True)
    assert difference(ours, their_image(there, (32, 32))) < 1e-4
    there.save_pretrained(tmp_path / "theirs")
    assert difference(our_image(tmp_path / "theirs", (32, 32)), ours) < 1e-6
    assert call("convert", source, tmp_path / "half", "--variant", "fp16").status == 0
    half = StableDiffusionPipeline.from_pretrained(
        str(tmp_path / "half"), variant="fp16", torch_dtype=torch.float32, local_files_only=True
    )
    assert difference(our_image(tmp_path / "half", (32, 32)), their_image(half, (32, 32))) < 1e-4

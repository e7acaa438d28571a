"""The whole model: the official checkpoint's keys and shapes, and the ways between the three spaces."""

from typing import Any

import pytest
import torch

from ldm.diffusion import latent_diffusion
from ldm.diffusion.guidance import Conditioning
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.nn.attention import CrossAttention
from ldm.nn.autoencoder import AutoencoderConfig
from ldm.nn.text_encoder import TextEncoderConfig
from ldm.nn.tokenizer import load_tokenizer
from ldm.nn.unet import UNetConfig
from tests.oracle import (
    BOUND,
    POSITION_IDS,
    TOKENIZER,
    autoencoder_config,
    facts,
    new_ldm,
    rel,
    small_ldm,
    small_unet,
    tensors,
    text_encoder_config,
    text_weights,
    unet_config,
)

TEXT = "cond_stage_model.transformer."


@pytest.fixture(scope="module")
def full_size() -> LatentDiffusion:
    with torch.device("meta"):
        return LatentDiffusion(LatentDiffusionConfig())


def test_every_key_shape_and_dtype_is_the_official_checkpoints(full_size: LatentDiffusion) -> None:
    ours = full_size.state_dict() | full_size.schedule.official_buffers()
    ours[TEXT + POSITION_IDS] = torch.arange(77)[None]
    described = {key: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for key, tensor in ours.items()}
    official = {key: (shape, dtype) for key, shape, dtype in facts("sd-v1-keys")["keys"]}
    assert len(official) == 1143
    assert described == official


def test_text_encoders_default_shape_is_the_official_one() -> None:
    assert TextEncoderConfig() == TextEncoderConfig(**facts("sd-v1-keys")["clip_text_config"])


def test_the_unets_attention_has_eight_heads(full_size: LatentDiffusion) -> None:
    """No shape in the checkpoint tells."""
    heads = {module.num_heads for module in full_size.unet.modules() if isinstance(module, CrossAttention)}
    assert heads == {8}


def test_built_on_the_meta_device_no_weight_takes_memory(full_size: LatentDiffusion) -> None:
    assert sum(parameter.numel() for parameter in full_size.parameters()) > 1_000_000_000
    assert all(tensor.is_meta for tensor in full_size.state_dict().values())
    assert full_size.schedule.alphas_cumprod.device.type == "cpu"


def test_full_size_geometry_is_stable_diffusions() -> None:
    config = LatentDiffusionConfig()
    assert config.autoencoder.downsampling_factor == 8
    assert config.unet.size_multiple == 8
    assert config.size_multiple == 64
    assert config.latent_shape(512, 512) == (4, 64, 64)
    assert config.latent_shape(384, 640) == (4, 48, 80)
    assert config.scale_factor == facts("vae-small")["scale_factor"]


@torch.inference_mode()
def test_built_on_the_meta_device_and_loaded_by_assignment_it_predicts_the_same() -> None:
    config = LatentDiffusionConfig(unet_config(), autoencoder_config(), text_encoder_config())
    with torch.device("meta"):
        ldm = LatentDiffusion(config)
    ldm.unet.load_state_dict(tensors("unet-small"), assign=True)
    ldm.autoencoder.load_state_dict(tensors("vae-small"), assign=True)
    ldm.text_encoder.transformer.load_state_dict(text_weights(), assign=True)
    ldm.eval()
    text, unet, images = tensors("text-tiny-io"), tensors("unet-small-io"), tensors("vae-small-io")
    assert ldm.device.type == "cpu"
    assert rel(ldm.text_encoder(text["input_ids"]), text["last_hidden_state"]) < BOUND
    assert rel(ldm.predict_eps(unet["x"], unet["t"], unet["context"]), unet["out"]) < BOUND
    latents = ldm.sample_posterior(ldm.encode_posterior(images["image"]), images["noise"])
    assert rel(latents, images["scaled_sample"]) < BOUND
    assert rel(ldm.decode_latents(0.18215 * images["latent"]), images["decoded"]) < BOUND


def test_attribute_paths_lead_to_the_three_networks() -> None:
    ldm = small_ldm()
    assert ldm.unet is ldm.get_submodule("model.diffusion_model")
    assert ldm.autoencoder is ldm.get_submodule("first_stage_model")
    assert ldm.text_encoder is ldm.get_submodule("cond_stage_model")


@torch.inference_mode()
@pytest.mark.parametrize(("pixels", "sizes"), [(1, [1] * 5), (2 * 16 * 24, [2, 2, 1]), (1 << 30, [5])])
def test_a_batch_is_decoded_by_so_many_pixels_at_a_time(
    pixels: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ldm, decoded = new_ldm(), []
    latents = torch.randn(5, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([ldm.decode_latents(one) for one in latents.split(1)])
    ldm.autoencoder.decoder.register_forward_pre_hook(lambda module, inputs: decoded.append(len(inputs[0])))
    monkeypatch.setattr(latent_diffusion, "DECODED_PIXELS", pixels)
    assert rel(ldm.decode_latents(latents), expected) < BOUND
    assert decoded == sizes


@torch.inference_mode()
def test_an_image_encoded_beforehand_gives_the_same_latents_for_each_noise() -> None:
    io, ldm = tensors("vae-small-io"), small_ldm()
    noise = torch.cat([io["noise"], io["noise"].flip(2)])
    latents = ldm.sample_posterior(ldm.encode_posterior(io["image"]), noise)
    for one, its_noise in zip(latents, noise, strict=True):
        assert torch.equal(one, ldm.sample_posterior(ldm.encode_posterior(io["image"]), its_noise[None])[0])


@torch.inference_mode()
@pytest.mark.parametrize(("weights", "latents"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float16)])
def test_eps_has_the_latents_dtype_and_is_computed_in_the_weights(weights: torch.dtype, latents: torch.dtype) -> None:
    io = tensors("unet-small-io")
    x = io["x"].to(latents)
    eps = small_ldm(weights).predict_eps(x, io["t"], io["context"])
    assert eps.dtype == latents
    direct = small_unet(weights)(x.to(weights), io["t"], io["context"].to(weights))
    assert torch.equal(eps, direct.to(latents))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_predictor_gives_the_prediction_with_its_conditioning_bit_for_bit(dtype: torch.dtype) -> None:
    io, ldm = tensors("unet-small-io"), small_ldm(dtype)
    eps_fn = ldm.predictor(Conditioning(io["context"]))
    for timesteps in (io["t"], io["t"].flip(0)):
        assert torch.equal(eps_fn(io["x"], timesteps), ldm.predict_eps(io["x"], timesteps, io["context"]))


@pytest.mark.slow
@torch.inference_mode()
def test_half_precision_networks_take_float32_images_and_latents() -> None:
    io, ldm = tensors("vae-small-io"), small_ldm(torch.bfloat16)
    latents = ldm.sample_posterior(ldm.encode_posterior(io["image"]), io["noise"])
    assert latents.dtype == torch.bfloat16
    assert rel(latents, io["scaled_sample"]) < 0.1
    assert rel(ldm.decode_latents(0.18215 * io["latent"]), io["decoded"]) < 0.1


def test_prompts_cannot_be_encoded_without_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="without a tokenizer"):
        new_ldm().encode_prompts(["a cat"])


@torch.inference_mode()
def test_prompts_are_tokenized_and_encoded() -> None:
    text = TextEncoderConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    config = LatentDiffusionConfig(unet_config(), autoencoder_config(), text)
    ldm = LatentDiffusion(config, load_tokenizer(TOKENIZER)).eval()
    context = ldm.encode_prompts(["a cat", "a photo of a dog"])
    assert context.shape == (2, 77, 32)
    assert torch.equal(context, ldm.text_encoder(load_tokenizer(TOKENIZER)(["a cat", "a photo of a dog"])))
    assert not torch.equal(context[0], context[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unet": UNetConfig(out_channels=3)}, r"unet\.out_channels and autoencoder\.embed_dim"),
        ({"unet": UNetConfig(in_channels=3)}, r"unet\.in_channels should not be less than autoencoder\.embed_dim"),
        ({"autoencoder": AutoencoderConfig(embed_dim=8)}, r"autoencoder\.embed_dim should be the same"),
        ({"unet": UNetConfig(context_dim=512)}, r"unet\.context_dim and text_encoder\.hidden_size should be the same"),
        ({"text_encoder": TextEncoderConfig(num_attention_heads=7)}, r"multiple of text_encoder\.num_attention_heads"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LatentDiffusionConfig(**changes)

"""diffusers' networks that share the tensors of one of this project's models: the same work, and memory for one.

The keys are translated by diffusers' own converter of single files, so that the peer is the same as for its users.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.diffusers_peer.configs import text_config
from benchmarks.tools.sizes import MAX_LENGTH, TOKENIZER, Size
from ldm.checkpoint.diffusers_writing import unet_config, vae_config
from ldm.checkpoint.keys import PARTS
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from ldm.files import ROOT

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Of the root mean square of the difference over that of the values."""


@dataclass
class Networks:
    """The parts of a diffusers pipeline."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any


def load_peer_tokenizer() -> Any:
    """The tokenizer of all sizes, for diffusers."""
    return CLIPTokenizer.from_pretrained(str(ROOT / TOKENIZER), local_files_only=True, model_max_length=MAX_LENGTH)


def build_peer(ldm: LatentDiffusion, size: Size, trained: Collection[str] = ()) -> Networks:
    """The networks around the tensors of `ldm`, wherever they lie.

    Of the `trained` ones, "unet" and "text_encoder", the `Parameter` objects are the same too, so that both sides have
    one gradient; of the others only the memory is, until one side changes its type or layout.
    """
    logging.set_verbosity_error()  # its advice on types is for weights that it has read itself
    shared = tuple(PARTS[part] for part in trained)
    tensors = {
        name: tensor if name.startswith(shared) else tensor.detach()
        for name, tensor in ldm.state_dict(keep_vars=True).items()
    }
    shapes = unet_config(ldm.config, size.pixels), vae_config(ldm.config, size.pixels)
    with init_empty_weights(include_buffers=False):
        unet, vae = UNet2DConditionModel(**shapes[0]), AutoencoderKL(**shapes[1])
        text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(ldm.config)))
    _assign(unet, convert_ldm_unet_checkpoint(tensors, dict(unet.config)))
    _assign(vae, convert_ldm_vae_checkpoint(tensors, dict(vae.config)))
    _assign(text_encoder, _as_transformers_names(text_encoder, convert_ldm_clip_checkpoint(tensors)))
    text_encoder.to(ldm.device)  # its buffer of positions
    return Networks(unet, vae, text_encoder, load_peer_tokenizer())


def forget(ldm: LatentDiffusion, but: Collection[str] = ()) -> None:
    """Frees our weights except the named parts, so that weights that the peer has copied are in memory once."""
    parts = {"unet": ldm.unet, "autoencoder": ldm.autoencoder, "text_encoder": ldm.text_encoder}
    for name, network in parts.items():
        if name not in but:
            network.to("meta")


def _as_transformers_names(text_encoder: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Newer versions of transformers leave `text_model.` out."""
    if any(name.startswith("text_model.") for name in text_encoder.state_dict()):
        return tensors
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def _assign(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference over that of the values."""
    ours, theirs = ours.float(), theirs.float().to(ours.device)
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


@torch.inference_mode()
def assert_same_networks(ldm: LatentDiffusion, peer: Networks, size: Size) -> dict[str, float]:
    """The `difference` of each network's output for the same small input. Raises `UserError` if they differ."""
    generator = torch.Generator().manual_seed(1)
    dtype = ldm.unet.dtype
    side = min(size.pixels // ldm.config.autoencoder.downsampling_factor, 16)
    latents = torch.randn(2, ldm.config.unet.in_channels, side, side, generator=generator).to(ldm.device, dtype)
    images = torch.rand(1, 3, 8 * side, 8 * side, generator=generator).to(ldm.device, dtype) * 2 - 1
    timesteps = torch.tensor([7, 981], device=ldm.device)
    prompts = ["a photo of sks can", "a photo of a can"]
    context = ldm.encode_prompts(prompts)
    ids = peer.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    found = {
        "text encoder": difference(context, peer.text_encoder(ids.to(ldm.device))[0]),
        "UNet": difference(ldm.predict_eps(latents, timesteps, context), peer.unet(latents, timesteps, context).sample),
        "encoder": difference(
            ldm.autoencoder.encode(images).parameters, peer.vae.encode(images).latent_dist.parameters
        ),
        "decoder": difference(ldm.autoencoder.decode(latents), peer.vae.decode(latents).sample),
    }
    if worst := [name for name, value in found.items() if not value < TOLERANCE[dtype]]:
        raise UserError(f"the {' and the '.join(worst)} of both sides differ: {found}; to compare them is worthless")
    return found

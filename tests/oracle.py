"""The stored numbers of the original code (`tests/fixtures/oracle/README.md`) and the small networks they belong to."""

import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.files import ROOT
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL
from ldm.nn.memory import NoInitialisation
from ldm.nn.text_encoder import TextEncoder, TextEncoderConfig
from ldm.nn.unet import UNet, UNetConfig

ORACLE = Path(__file__).parent / "fixtures" / "oracle"
TOKENIZER = ROOT / "ldm" / "assets" / "clip-tokenizer"

BOUND = 1e-5
"""What float32 on the CPU may differ by, as `rel` measures it."""

BOUND_F64 = 1e-7
"""The same in float64."""

Network = TypeVar("Network", bound=nn.Module)


def rel(actual: Tensor, expected: Tensor) -> float:
    """max|actual - expected| / max|expected| over the whole tensor, in float64. NaN, and so no match, for NaNs."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach().double(), expected.detach().double()
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """The tensors of `<name>.safetensors`. They are shared: don't write to them."""
    with torch.inference_mode(False):  # plain tensors, which autograd accepts, whoever loads them first
        return load_file(ORACLE / f"{name}.safetensors")


@cache
def facts(name: str) -> Any:
    """What `<name>.json` holds. It is shared: don't write to it."""
    return json.loads((ORACLE / f"{name}.json").read_text(encoding="utf-8"))


def _known(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in names}


def unet_config() -> UNetConfig:
    """The shape of `unet-small`."""
    return UNetConfig(**_known(UNetConfig, facts("unet-small")["config"]))


def autoencoder_config() -> AutoencoderConfig:
    """The shape of `vae-small`."""
    config = facts("vae-small")["config"]
    return AutoencoderConfig(**_known(AutoencoderConfig, {**config["ddconfig"], "embed_dim": config["embed_dim"]}))


def text_encoder_config() -> TextEncoderConfig:
    """The shape of `text-tiny`."""
    return TextEncoderConfig(**_known(TextEncoderConfig, facts("text-tiny")["config"]))


POSITION_IDS = "text_model.embeddings.position_ids"


def text_weights() -> dict[str, Tensor]:
    """The weights of `text-tiny`; position ids are a constant."""
    return {key: tensor for key, tensor in tensors("text-tiny").items() if key != POSITION_IDS}


def new_unet(dtype: torch.dtype = torch.float32) -> UNet:
    """A copy of `unet-small` to train or change."""
    with NoInitialisation():
        unet = UNet(unet_config())
    unet.load_state_dict(tensors("unet-small"))
    return unet.to(dtype)


def new_autoencoder(dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """A copy of `vae-small` to train or change."""
    with NoInitialisation():
        autoencoder = AutoencoderKL(autoencoder_config())
    autoencoder.load_state_dict(tensors("vae-small"))
    return autoencoder.to(dtype)


def new_text_encoder(dtype: torch.dtype = torch.float32) -> TextEncoder:
    """A copy of `text-tiny` to train or change."""
    with NoInitialisation():
        encoder = TextEncoder(text_encoder_config())
    encoder.transformer.load_state_dict(text_weights())
    return encoder.eval().to(dtype)


def new_ldm(dtype: torch.dtype = torch.float32) -> LatentDiffusion:
    """The three small networks as one model, to change."""
    with NoInitialisation():
        ldm = LatentDiffusion(LatentDiffusionConfig(unet_config(), autoencoder_config(), text_encoder_config()))
    ldm.unet.load_state_dict(tensors("unet-small"))
    ldm.autoencoder.load_state_dict(tensors("vae-small"))
    ldm.text_encoder.transformer.load_state_dict(text_weights())
    return ldm.eval().to(dtype)


def _frozen(network: Network) -> Network:
    return network.eval().requires_grad_(False)


@cache
def small_unet(dtype: torch.dtype = torch.float32) -> UNet:
    """`unet-small`, shared: don't change it."""
    with torch.inference_mode(False):
        return _frozen(new_unet(dtype))


@cache
def small_autoencoder(dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """`vae-small`, shared: don't change it."""
    with torch.inference_mode(False):
        return _frozen(new_autoencoder(dtype))


@cache
def small_text_encoder(dtype: torch.dtype = torch.float32) -> TextEncoder:
    """`text-tiny`, shared: don't change it."""
    with torch.inference_mode(False):
        return _frozen(new_text_encoder(dtype))


@cache
def small_ldm(dtype: torch.dtype = torch.float32) -> LatentDiffusion:
    """The three small networks as one model, shared: don't change it."""
    with torch.inference_mode(False):
        return _frozen(new_ldm(dtype))


def transposed(network: Network) -> Network:
    """Swaps height and width in every convolution of `network`, in place: it then does the same to x^T."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.transpose(-1, -2).contiguous()
    return network

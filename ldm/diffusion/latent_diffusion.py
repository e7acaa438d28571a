"""Latent diffusion: an autoencoder, a text encoder and a UNet that denoises between them.

"High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), eq. 3. The attribute paths are the
official checkpoint's keys: `model.diffusion_model`, `first_stage_model`, `cond_stage_model.transformer`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ldm.background import raise_if_cancelled
from ldm.bounds import check_range
from ldm.diffusion.guidance import Conditioning, EpsFn
from ldm.diffusion.schedule import NoiseSchedule, ScheduleConfig
from ldm.errors import UserError
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL, DiagonalGaussian
from ldm.nn.graphed import GraphedCall
from ldm.nn.memory import on_host, weightless
from ldm.nn.text_encoder import TextEncoder, TextEncoderConfig
from ldm.nn.tokenizer import PromptTokenizer
from ldm.nn.unet import ProjectedContext, UNet, UNetConfig

DECODED_PIXELS = 512 * 512
"""How many pixels are decoded at a time. At full resolution the decoder holds some hundred numbers per pixel, far more
than the UNet: a batch that the UNet handles would not fit. One image of this size fills a GPU."""


@dataclass(frozen=True)
class LatentDiffusionConfig:
    """Shape of the whole model; the defaults are Stable Diffusion v1's. `scale_factor` gives latents unit variance."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    scale_factor: float = 0.18215

    def __post_init__(self) -> None:
        check_range(self, 1e-6, 1e6, "scale_factor")
        if self.unet.out_channels != self.autoencoder.embed_dim:
            raise ValueError("unet.out_channels and autoencoder.embed_dim should be the same")
        if self.concat_channels < 0:
            raise ValueError("unet.in_channels should not be less than autoencoder.embed_dim")
        if {self.autoencoder.in_channels, self.autoencoder.out_ch} != {3}:
            raise ValueError("autoencoder.in_channels and autoencoder.out_ch should be 3, as images have")
        if self.unet.context_dim != self.text_encoder.hidden_size:
            raise ValueError("unet.context_dim and text_encoder.hidden_size should be the same")
        if self.text_encoder.hidden_size % self.text_encoder.num_attention_heads:
            raise ValueError("text_encoder.hidden_size should be a multiple of text_encoder.num_attention_heads")

    @property
    def least_tensors(self) -> int:
        """A lower bound of how many tensors a model of this shape has, known without building it."""
        return self.unet.least_tensors + self.autoencoder.least_tensors + self.text_encoder.least_tensors

    @property
    def size_multiple(self) -> int:
        """Height and width of an image must be multiples of this many pixels."""
        return self.autoencoder.downsampling_factor * self.unet.size_multiple

    @property
    def concat_channels(self) -> int:
        """How many channels the UNet takes besides the latents: 0, 5 (inpainting) or 4 (InstructPix2Pix)."""
        return self.unet.in_channels - self.autoencoder.embed_dim

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of an image of height x width pixels."""
        factor = self.autoencoder.downsampling_factor
        return self.autoencoder.embed_dim, height // factor, width // factor


class LatentDiffusion(nn.Module):
    """The three networks and the schedule. Latents (b 4 h/8 w/8) are scaled by `scale_factor` wherever they appear.

    In a worker thread, a call of a network first ends the work if nobody needs it any more (`raise_if_cancelled`).
    """

    def __init__(self, config: LatentDiffusionConfig, tokenizer: PromptTokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({"diffusion_model": UNet(config.unet)})
        self.first_stage_model = AutoencoderKL(config.autoencoder)
        self.cond_stage_model = TextEncoder(config.text_encoder)
        self.schedule = NoiseSchedule(config.schedule)
        self.tokenizer = tokenizer
        self.graphed_unet: GraphedCall[Tensor] | None = None
        """If set, replaces the UNet call; only one thread may use it. Call `forget` on it after replacing weights."""

    @property
    def unet(self) -> UNet:
        """The denoising network."""
        return self.model["diffusion_model"]  # type: ignore[return-value]

    @property
    def text_encoder(self) -> TextEncoder:
        """The network that turns token ids into the context."""
        return self.cond_stage_model

    @property
    def autoencoder(self) -> AutoencoderKL:
        """The network between images and unscaled latents."""
        return self.first_stage_model

    @property
    def device(self) -> torch.device:
        """The device of the UNet's weights."""
        return next(self.unet.parameters()).device

    def alone(self, network: nn.Module) -> AbstractContextManager[None]:
        """A context in which the other two networks are in the host's memory."""
        return on_host([one for one in (self.unet, self.autoencoder, self.text_encoder) if one is not network])

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Prompts -> context (b 77 d)."""
        if self.tokenizer is None:
            raise ValueError("this model was built without a tokenizer")
        raise_if_cancelled()
        return self.text_encoder(self.tokenizer(prompts).to(self.device))

    def encode_posterior(self, images: Tensor) -> DiagonalGaussian:
        """The autoencoder's posterior q(z|x) of images (b 3 h w) in [-1, 1]."""
        raise_if_cancelled()
        return self.autoencoder.encode(images.to(self.autoencoder.quant_conv.weight))

    def sample_posterior(self, posterior: DiagonalGaussian, noise: Tensor) -> Tensor:
        """Latents (b 4 h/8 w/8) from a posterior of b images, or of one, and normal noise of the same shape."""
        return self.config.scale_factor * posterior.sample(noise.to(posterior.mean))

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents (b 4 h/8 w/8) -> images (b 3 h w), nominally in [-1, 1]; `DECODED_PIXELS` at a time."""
        unscaled = latents.to(self.autoencoder.quant_conv.weight) / self.config.scale_factor
        pixels = latents.shape[2] * latents.shape[3] * self.config.autoencoder.downsampling_factor**2
        images = []
        for batch in unscaled.split(max(1, DECODED_PIXELS // pixels)):
            raise_if_cancelled()
            images.append(self.autoencoder.decode(batch))
        return torch.cat(images)

    def predictor(self, conditioning: Conditioning) -> EpsFn:
        """`predict_eps` with this conditioning; the keys and values of its context are computed once for all calls."""
        projected = self.unet.project_context(conditioning.context.to(self.unet.dtype))
        return lambda latents, timesteps: self.predict_eps(latents, timesteps, projected, conditioning.concat)

    def predict_eps(
        self, latents: Tensor, timesteps: Tensor, context: Tensor | ProjectedContext, concat: Tensor | None = None
    ) -> Tensor:
        """The UNet's eps (b 4 h w) in the dtype of `latents`, computed in that of its weights.

        `concat` (b c h w): further input channels, for models that take some. Raises `UserError` for a wrong number.
        """
        raise_if_cancelled()
        if (given := 0 if concat is None else concat.shape[1]) != self.config.concat_channels:
            raise UserError(
                f"the UNet takes {self.config.concat_channels} channels besides the latents, and {given} were given: "
                "a model for inpainting needs img2img.py --mask, and InstructPix2Pix an image to edit"
            )
        if isinstance(context, Tensor):
            context = context.to(self.unet.dtype)
        noisy = latents if concat is None else torch.cat([latents, concat.to(latents)], dim=1)
        inputs = noisy.to(self.unet.dtype), timesteps, context
        eps = self.unet(*inputs) if self.graphed_unet is None else self.graphed_unet(*inputs).clone()
        return eps.to(latents.dtype)


@lru_cache(maxsize=8)
def shapes_of(config: LatentDiffusionConfig) -> Mapping[str, torch.Size]:
    """Names and shapes in `LatentDiffusion.state_dict()`; cached, as building a model takes a while."""
    with weightless():
        model = LatentDiffusion(config)
    return MappingProxyType({name: tensor.shape for name, tensor in model.state_dict().items()})


def count_weights(config: LatentDiffusionConfig, prefix: str = "") -> int:
    """How many numbers the weights hold whose names begin with `prefix`."""
    return sum(shape.numel() for name, shape in shapes_of(config).items() if name.startswith(prefix))

"""Inpainting: only the masked region is new. With models that know of masks, and with any other.

A mask is (1 h w), 1 where the image is painted. An ordinary model's prediction of the clean latents is replaced by
the image's own outside the mask, so that this region stays the image, noised to the level of each step, in every
sampler. A model for inpainting is given mask and image as further channels (arXiv 2112.10752, section 4.5).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.guidance import Conditioning, EpsFn, Guidance
from ldm.diffusion.schedule import NoiseSchedule

MASK_CHANNELS = 5
"""The further channels of a model for inpainting: mask, and the latents of the image without the masked region."""


def covering_mask(mask: Tensor, factor: int) -> Tensor:
    """The mask of latents, (1 1 h/f w/f): 1 where any of the pixels is painted."""
    return F.max_pool2d(mask[None], factor)


def keep_known(eps_fn: EpsFn, known: Tensor, mask: Tensor, schedule: NoiseSchedule) -> EpsFn:
    """An eps whose prediction of clean latents is `known` (b c h w) outside the latents' `mask` (1 1 h w)."""

    def masked_eps(latents: Tensor, timesteps: Tensor) -> Tensor:
        alpha = schedule.alphas_cumprod_between(timesteps).to(latents).view(-1, 1, 1, 1)
        eps_of_known = (latents - alpha.sqrt() * known.to(latents)) / (1 - alpha).sqrt()
        eps = eps_fn(latents, timesteps)
        return torch.where(mask.to(latents.device) > 0, eps, eps_of_known)

    return masked_eps


def with_mask_channels(guidance: Guidance, mask: Tensor, masked_latents: Tensor) -> Guidance:
    """The guidance for a model for inpainting, from the image's mask (1 h w) and latents of the image without it."""
    size = masked_latents.shape[2:]
    channel = F.interpolate(mask[None], size=size).to(masked_latents)  # nearest, as the model was trained
    concat = torch.cat([channel.expand(len(masked_latents), -1, -1, -1), masked_latents], dim=1)
    return [(weight, Conditioning(one.context, concat)) for weight, one in guidance]


def paste(images: Tensor, original: Tensor, mask: Tensor, feather: Tensor) -> Tensor:
    """Sampled images (b 3 h w) with the original (3 h w) outside the mask, exactly; `feather` (1 h w) in [0, 1]."""
    blended = original + feather * (images - original)
    return torch.where(mask > 0, blended, original)

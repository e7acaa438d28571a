"""Edits by instruction: "InstructPix2Pix: Learning to Follow Image Editing Instructions" (arXiv 2211.09800).

The UNet takes the latents of the image to edit as further channels, beside the noisy latents of the edited one.
"""

import torch
from torch import Tensor

from ldm.diffusion.guidance import Conditioning, Guidance
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig

EDIT_CHANNELS = 4
"""The further channels of a model that edits: the latents of the image, the posterior's mean without scale factor."""
IMAGE_SCALE = 1.5
"""The guidance scale of the image by default, as the paper's authors publish it."""


def is_edit_model(config: LatentDiffusionConfig) -> bool:
    """Whether a model of this shape edits images by instruction."""
    return config.concat_channels == EDIT_CHANNELS


def most_conditionings(config: LatentDiffusionConfig) -> int:
    """How many predictions guidance takes for each image, at most."""
    return 3 if is_edit_model(config) else 2


def edit_guidance(
    context: Tensor, uncond_context: Tensor, image_latents: Tensor, guidance_scale: float, image_scale: float
) -> Guidance:
    """Guidance towards an image by `image_scale`, and towards an instruction by `guidance_scale` (eq. 3).

    e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0)), with zeros for a missing image. `context` is (b m d),
    `uncond_context` the same or (1 m d), `image_latents` (b 4 h w) or (1 4 h w), unscaled.
    """
    uncond_context = uncond_context.expand_as(context)
    image = image_latents.expand(len(context), -1, -1, -1)
    return [
        (1.0 - image_scale, Conditioning(uncond_context, torch.zeros_like(image))),
        (image_scale - guidance_scale, Conditioning(uncond_context, image)),
        (guidance_scale, Conditioning(context, image)),
    ]

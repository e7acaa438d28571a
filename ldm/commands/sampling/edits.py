"""Options of edits by instruction: how closely an edit keeps to its image, and from what it starts."""

import argparse

from ldm.diffusion.editing import is_edit_model
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError
from ldm.runtime.models import Settings


def image_scales_from(options: argparse.Namespace, settings: Settings) -> tuple[float, ...]:
    """`--image-scale`, else the model's default; empty for a model that doesn't edit.

    Raises `UserError` for what has no meaning with the model.
    """
    given: list[float] | None = getattr(options, "image_scale", None)
    if not is_edit_model(settings.model):
        if given:
            raise UserError(
                "--image-scale is for checkpoints that edit by instruction, whose UNet takes 8 channels; this one "
                f"takes {settings.model.unet.in_channels}"
            )
        return ()
    if getattr(options, "init_img", None) is None:
        raise UserError("the checkpoint edits images by instruction: use it with img2img.py -i")
    if any(side.strip("0") for side in (getattr(options, "extend", None) or "").split(",")):
        raise UserError("--extend is for other checkpoints: this one edits what is in an image, by instruction")
    return tuple(dict.fromkeys(given or [settings.sampling.image_scale]))


def with_edit_strength(options: argparse.Namespace, model: LatentDiffusionConfig) -> argparse.Namespace:
    """The options with strength 1 for a model that edits if `--strength` isn't given: the image is beside the latents.

    A resumed call has the strength of its record.
    """
    if not is_edit_model(model) or "strength" in options.typed or options.resume_dir:
        return options
    return argparse.Namespace(**{**vars(options), "strength": 1.0})

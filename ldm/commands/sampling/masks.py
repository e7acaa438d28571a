"""The image that img2img starts from, at the size of the samples: fitted, extended (outpainting), and with its mask."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from ldm.data.images import fit_image, read_image, to_tensor
from ldm.diffusion.editing import EDIT_CHANNELS
from ldm.diffusion.inpainting import MASK_CHANNELS
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.diffusion.sampling import InitImage
from ldm.errors import UserError

PIXELS_PER_BLUR = 128
"""By default the edge of a mask is feathered over a pixel for so many of the shorter side."""
SAME_SHAPE = 0.02
"""How much the quotients of a mask's and an image's sides may differ."""

Margins = tuple[int, int, int, int]
"""Pixels at the left, top, right and bottom."""


def with_inpainting_strength(options: argparse.Namespace) -> argparse.Namespace:
    """The options with strength 1 where a region is painted and `--strength` isn't given: nothing of it is kept."""
    extend = getattr(options, "extend", None) or ""
    is_inpainting = getattr(options, "mask", None) or any(side.strip("0") for side in extend.split(","))
    if not is_inpainting or "strength" in options.typed:
        return options
    return argparse.Namespace(**{**vars(options), "strength": 1.0})


def margins_from(options: argparse.Namespace, multiple: int) -> Margins:
    """`--extend`; all 0 without it. Raises `UserError` unless they are multiples of what the networks need."""
    text: str = getattr(options, "extend", None) or "0,0,0,0"
    left, top, right, bottom = map(int, text.split(","))
    if any(side % multiple for side in (left, top, right, bottom)):
        raise UserError(f"--extend {text}: each should be a multiple of {multiple}")
    return left, top, right, bottom


def init_from(options: argparse.Namespace, image: Image.Image, size: tuple[int, int], margins: Margins) -> InitImage:
    """The initial image: `image` at this size (height, width), then the margins; with the mask, if there is any."""
    fitted = fit_image(image, *size)
    if not options.mask:
        _refuse_without_mask(options, margins)
    if not options.mask and not any(margins):
        return InitImage(to_tensor(fitted), options.strength)
    mask = _mask_from(options, image, size) if options.mask else Image.new("L", fitted.size, 0)
    fitted, mask = _extended(fitted, margins), _padded(mask, margins, fill=255)
    blur = options.mask_blur
    if blur is None:
        blur = min(fitted.size) // PIXELS_PER_BLUR
    painted = torch.from_numpy(np.array(mask)).ge(128).float()[None]
    return InitImage(to_tensor(fitted), options.strength, mask=painted, feather=feathered(painted, blur))


def feathered(mask: torch.Tensor, blur: float) -> torch.Tensor:
    """How much of the new image is seen, (1 h w): 0 outside the mask, and from its edge inwards up to 1."""
    if not blur:
        return mask
    image = Image.fromarray((mask[0] * 255).to(torch.uint8).numpy())
    blurred = torch.from_numpy(np.array(image.filter(ImageFilter.GaussianBlur(blur)))).float()[None] / 255
    inwards = (2 * blurred - 1).clamp(min=0) * mask
    return inwards / inwards.max() if inwards.any() else mask  # a mask narrower than its blur is not feathered


def refuse_other_inputs(model: LatentDiffusionConfig, init: InitImage | None) -> None:
    """Raises `UserError` if the UNet takes further channels that the call doesn't give it."""
    has_mask = init is not None and init.mask is not None
    if model.concat_channels == MASK_CHANNELS and not has_mask:
        raise UserError("the checkpoint is one for inpainting: use it with img2img.py --mask")
    if model.concat_channels not in (0, MASK_CHANNELS, EDIT_CHANNELS):
        raise UserError(
            f"the checkpoint's UNet takes {model.concat_channels} channels besides the latents, which no command gives "
            "it"
        )


def _refuse_without_mask(options: argparse.Namespace, margins: Margins) -> None:
    of_mask = [("--invert-mask", options.invert_mask)]
    for flag, value in of_mask if any(margins) else [("--mask-blur", options.mask_blur), *of_mask]:
        if value:
            raise UserError(f"{flag} is for --mask")


def _mask_from(options: argparse.Namespace, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask's grey levels at this size, 255 where the image is painted."""
    mask = read_image(options.mask, max(size))
    if abs(mask.width / mask.height - image.width / image.height) > SAME_SHAPE:
        raise UserError(
            f"--mask {options.mask} is {mask.width} x {mask.height}, and the image {image.width} x {image.height}: "
            "they should have the same shape"
        )
    grey = fit_image(mask, *size).convert("L")
    levels = np.array(grey)
    levels = 255 - levels if options.invert_mask else levels
    if not (levels >= 128).any():
        if options.invert_mask:
            raise UserError(f"--mask {options.mask}: nothing in it is black, and with --invert-mask black is painted")
        raise UserError(
            f"--mask {options.mask}: nothing in it is white, and white is what is painted; --invert-mask paints black"
        )
    return Image.fromarray(levels)


def _padded(image: Image.Image, margins: Margins, fill: int | tuple[int, int, int]) -> Image.Image:
    left, top, right, bottom = margins
    canvas = Image.new(image.mode, (image.width + left + right, image.height + top + bottom), fill)
    canvas.paste(image, (left, top))
    return canvas


def _extended(image: Image.Image, margins: Margins) -> Image.Image:
    """The image with margins that repeat its edge: something for less than full strength to begin with."""
    left, top, right, bottom = margins
    pixels = np.pad(np.array(image.convert("RGB")), ((top, bottom), (left, right), (0, 0)), mode="edge")
    return Image.fromarray(pixels)


def photo_size(height: int, width: int, margins: Margins) -> tuple[int, int]:
    """Height and width of the image without the margins, for the record: `--hw` is that size."""
    left, top, right, bottom = margins
    return height - top - bottom, width - left - right


def mask_text(options: argparse.Namespace) -> dict[str, object]:
    """For the text of an image file: the flags that were used."""
    mask: Path | None = getattr(options, "mask", None)
    extend = getattr(options, "extend", None)
    return {
        **({"mask": mask.name, "invert_mask": options.invert_mask} if mask else {}),
        **({"mask_blur": options.mask_blur} if (mask or extend) and options.mask_blur is not None else {}),
        **({"extend": extend} if extend else {}),
    }

"""Converts an image file's numbers to eight bits of sRGB: sample types, ICC profiles, transparency."""

import functools
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, features

from ldm.errors import UserError
from ldm.terminal import warn_once

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

log = logging.getLogger(__name__)

DARK = 4
"""An image whose brightest value is below 1 / DARK of its type's white probably has another scale."""

SAME_COLOUR = 2
"""A profile that changes no value of eight bits by more than this is sRGB, rounded in another way."""

TIFF_BITS, TIFF_SAMPLE_FORMAT, SIGNED = 258, 339, 2

PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}
"""The colour space of a profile for an image of this mode."""


class ProfileError(Exception):
    """An ICC profile that can't be used."""


def to_srgb(image: Image.Image, path: Path) -> Image.Image:
    """A loaded image as opaque sRGB in mode RGB: transparency becomes white. Raises `UserError`."""
    profile = image.info.get("icc_profile")
    image = _eight_bits(image, path)
    if not image.has_transparency_data:
        return _in_srgb(image, profile, path)
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    rgba = image.convert("RGBA")
    if profile:
        rgb = _in_srgb(rgba.convert("L" if image.mode == "LA" else "RGB"), profile, path)
        rgb.putalpha(rgba.getchannel("A"))
        rgba = rgb
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


# Sample types


class Scale(NamedTuple):
    """The values that become black and white."""

    black: float
    white: float


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """A grey image of another sample type than unsigned bytes as mode L; other images unchanged."""
    tags = getattr(image, "tag_v2", {})
    bits, signed = _tag(tags, TIFF_BITS), _tag(tags, TIFF_SAMPLE_FORMAT) == SIGNED
    if image.mode == "L" and bits == 8 and signed:
        return _scaled(np.asarray(image).view(np.int8), path)
    if image.mode == "F":
        return _scaled(np.asarray(image), path)
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if bits == 32 and not signed:
        return _scaled(values.view(np.uint32), path)  # Pillow has no such mode and reads them as signed
    if image.mode == "I" and tags and (bits == 32 or signed):
        return _scaled(values.astype(np.int16) if bits == 16 else values, path)
    if bits == 12:
        return _grey(values >> 4)
    if values.size and (brightest := int(values.max())) < 65536 // DARK:
        warn_once(log, "%s is dark: its brightest value is %d of 65535", path, brightest)
    return _grey(values >> 8)


def _scaled(values: np.ndarray, path: Path) -> Image.Image:
    """Numbers of a type whose white is not fixed: their range decides it, or is stretched, with a warning."""
    if not np.isfinite(values).all():
        raise UserError(f"{path} is not a readable image: it holds numbers that are not finite")
    low, high = float(values.min()), float(values.max())
    scale = scale_of(low, high, values.dtype)
    if scale is None:
        scale = Scale(low, high)
        warn_once(
            log,
            "%s holds %s values from %g to %g; the lowest becomes black, the highest white",
            *(path, values.dtype, low, high),
        )
    if scale == Scale(0, 65535) and values.dtype.kind in "iu":
        return _grey(values >> 8)  # as images of 16 bits
    if (span := scale.white - scale.black) == 0:
        return _grey(np.zeros(values.shape))
    share = (values.astype(np.float64) - scale.black) / span
    return _grey(np.rint(share * 255.0))


def scale_of(low: float, high: float, dtype: np.dtype) -> Scale | None:
    """[0, 1] for floating point, [0, 255] or [0, 65535], whichever the values fit and fill; None where none is meant.

    A small signed type's white is its largest value. Values below a fourth of a white probably have another scale, such
    as 12 bits. An image that is all black stays black.
    """
    whites = {"int8": (127,), "int16": (255, 32767)}.get(dtype.name, (255, 65535))
    if dtype.kind == "f":
        whites = (1, *whites)
    if low < 0:
        return None
    if high == 0:
        return Scale(0, whites[0])
    white = next((white for white in whites if high <= white), None)
    return None if white is None or (white > 1 and high < (white + 1) / DARK) else Scale(0, white)


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def _tag(tags: object, tag: int) -> int | None:
    """A TIFF tag's first value, as an integer; None if there is none."""
    value = tags.get(tag) if hasattr(tags, "get") else None
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else None


# Colour profiles


def _in_srgb(image: Image.Image, profile: object, path: Path) -> Image.Image:
    """An opaque image as RGB, by its profile if that can be used."""
    if image.mode == "LAB":
        profile = profile or b""
    elif not isinstance(profile, bytes) or not profile:
        return image.convert("RGB")
    elif image.mode not in PROFILE_SPACES:
        image = image.convert("L" if image.mode in ("1", "I") else "RGB")
    if not features.check("littlecms2"):
        if image.mode == "LAB":
            raise UserError(f"{path} is in Lab colours, which need a Pillow with LittleCMS")
        warn_once(log, "this Pillow has no LittleCMS: colour profiles are ignored, all images are read as sRGB")
        return image.convert("RGB")
    from PIL import ImageCms

    try:
        assert isinstance(profile, bytes)
        mode, transform = _transform(profile, image.mode)
        if transform is None:
            return image.convert("RGB")
        converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
        assert converted is not None  # it is None in place only
        return converted
    except (ProfileError, ImageCms.PyCMSError, OSError, ValueError) as error:
        if image.mode == "LAB":
            return _in_srgb(image, b"", path) if profile else _refuse_lab(path, error)
        warn_once(log, "%s: its colour profile is ignored, as it can't be used: %s", path, str(error))
        return image.convert("RGB")


def _refuse_lab(path: Path, error: Exception) -> Image.Image:
    raise UserError(f"{path} is not a readable image: its Lab colours could not be converted: {error}")


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> "tuple[str, ImageCmsTransform | None]":
    """The mode to convert an image of `mode` to first, and the transform to sRGB; None if the profile is sRGB.

    An empty profile stands for Lab colours by their definition.
    """
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
    space = source.profile.xcolor_space.strip() if profile else "Lab"  # type: ignore[union-attr]
    if mode == "L" and space == "RGB":
        mode = "RGB"  # a colour image that was converted to grey
    if PROFILE_SPACES[mode] != space:
        raise ProfileError(f"it is one for {space}, and the image is {mode}")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return mode, None if mode in ("RGB", "L") and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: "ImageCmsTransform", mode: str) -> bool:
    """Whether a transform changes no colour of a grid over the cube, or no grey."""
    if mode == "L":
        colours = np.arange(256, dtype=np.uint8)[None]
    else:
        steps = np.linspace(0, 255, 17).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(colours)
    after = np.asarray(transform.apply(before)).astype(int)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= SAME_COLOUR)

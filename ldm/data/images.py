"""The one reader and writer of image files: upright, sRGB, cropped to size; the text chunks of our PNGs.

Pillow fits images and numpy converts them: torchvision's resize and centre crop, which round to whole pixels between
the two, give other bits than `ImageOps.fit`, and importing it would slow the start of every command.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm.data.colours import to_srgb
from ldm.data.formats import open_image
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.host_memory import available_memory
from ldm.user_files import open_regular

log = logging.getLogger(__name__)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes a photo with this EXIF orientation upright; 1 is upright."""

LARGE_PIXELS = 178_956_970
"""A larger image is read at a reduced size if a small one is needed. (The most pixels that Pillow reads unasked.)"""

DENSE_PIXELS, PIXELS_PER_BYTE = 2**26, 1000
"""An image with more pixels than the first may have at most the second per byte of its file: no photo comes near that,
but a file made to fill the memory exceeds it by far."""

UNKNOWN_MEMORY = 2**32
"""Bytes assumed to be available if the system does not report them."""
SURELY_THERE = 2**28
"""Smaller needs, in bytes, are not compared with the available memory, because reading that takes a moment."""

PREFIX, FOREIGN = "ldm.", frozenset(["parameters"])
"""Our text chunks are named `ldm.<key>`, because other programs store their values under `prompt`. Chunks that we write
for other programs keep their names."""


def read_image(path: Path, cover: int | None = None) -> Image.Image:
    """Reads an image file, upright and as sRGB; the content decides the format, and transparency becomes white.

    `cover`: the longer side of the size that the image will be fitted to; a very large image is reduced to no less than
    twice that. Raises `UserError` if it can't be read.
    """
    try:
        with open_regular(path) as stream, open_image(stream, path) as file:
            _load_bounded(file, path, os.fstat(stream.fileno()).st_size, _reduction(file.size, cover))
            # After loading: some decoders turn the image themselves and then remove the tag.
            turn = UPRIGHT.get(file.getexif().get(ExifTags.Base.Orientation, 1))
            image = to_srgb(_reduced(file, cover), path)
            return image.transpose(turn) if turn is not None else image
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"{path} is larger than Pillow reads in its format; save it as JPEG, or with at most 12000 x 12000 pixels"
        ) from None
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise UserError(f"{path} is not a readable image: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in an image file's header, before it is turned upright. Raises `UserError`."""
    try:
        with open_regular(path) as stream, open_image(stream, path) as file:
            return file.size
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(f"{path} is not a readable image: {error}") from error


def _reduction(size: tuple[int, int], cover: int | None) -> int:
    """The factor by which an image of this size may be reduced to be still twice as large as needed."""
    if cover is None or size[0] * size[1] <= LARGE_PIXELS:
        return 1
    return max(1, min(size) // (2 * cover))


def _reduced(image: Image.Image, cover: int | None) -> Image.Image:
    factor = _reduction(image.size, cover)
    if factor == 1:
        return image
    if image.mode in ("1", "P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB").reduce(factor)
    return image if image.mode.startswith("I;") else image.reduce(factor)


def _load_bounded(file: ImageFile.ImageFile, path: Path, num_bytes: int, factor: int) -> None:
    """Decodes an image, by a JPEG's own means at a size reduced by up to `factor`.

    Raises `UserError` before the pixels take memory if they would take too much.
    """
    width, height = file.size
    if width * height > max(DENSE_PIXELS, PIXELS_PER_BYTE * num_bytes):
        raise UserError(f"{path} claims to be {width} x {height} pixels in {num_bytes} bytes, which is no photo")
    if factor > 1 and file.format in ("JPEG", "MPO"):
        file.draft(file.mode, (width // factor, height // factor))
    need = file.width * file.height * _bytes_per_pixel(file, reduced=factor > 1)
    if file.info.get("progressive"):
        need += width * height * 6  # all coefficients of such a JPEG are in memory at once
    if need > SURELY_THERE and need > (room := _room()):
        raise UserError(
            f"{path} has {width} x {height} pixels, and reading it would take {human_size(need)} of memory, "
            f"more than the {human_size(room)} that may be used for it; make it smaller"
        )
    file.load()


def _room() -> int:
    """Half of the available memory: other images and the networks need some as well."""
    available = available_memory()
    return (UNKNOWN_MEMORY if available is None else available) // 2


def _bytes_per_pixel(file: ImageFile.ImageFile, reduced: bool) -> int:
    """At the peak: decoded, in its colours, and converted ones beside it, unless these are small."""
    decoded = 1 if file.mode in ("1", "L", "P") else 4
    copies = 24 if file.mode in ("I", "F") else 8
    return decoded + (0 if reduced else copies)


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resizes so that the image covers height x width, and crops the rest evenly on both sides."""
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """(3 h w) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1.0


def to_image(tensor: Tensor) -> Image.Image:
    """The image of a tensor (3 h w) in [-1, 1]."""
    pixels = ((tensor.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def save_png(path: Path, image: Image.Image, text: Mapping[str, object] | None = None) -> None:
    """Writes a PNG atomically, with `text` in its text chunks: `seed` in `ldm.seed`, `parameters` in `parameters`."""
    info = PngInfo()
    for key, value in (text or {}).items():
        words = str(value).encode("utf-8", "replace").decode().replace("\0", " ")
        info.add_text(key if key in FOREIGN else PREFIX + key, words)  # tEXt, which all read; iTXt where it must be
    with atomic_path(path) as partial:
        image.save(partial, format="PNG", pnginfo=info, compress_level=4)


def own_text(image: Image.Image, key: str) -> str | None:
    """What `save_png` wrote under a key, also before it named its chunks `ldm.<key>`; None if there is nothing."""
    value = image.info.get(PREFIX + key, image.info.get(key))
    return value if isinstance(value, str) else None

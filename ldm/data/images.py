"""The one reader and writer of image files: upright, in sRGB, cropped to size; the text chunks of our PNGs.

Pillow fits images, not torchvision: its resize and centre crop round to whole pixels in between, which gives other bits
than `ImageOps.fit`, and importing it would slow the start of every command.
"""

import os
import struct
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm.background import map_ahead
from ldm.data.colours import to_srgb
from ldm.data.formats import open_image
from ldm.disk import human_size
from ldm.errors import UserError
from ldm.files import atomic_path
from ldm.host_memory import available_memory
from ldm.user_files import open_regular

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a photo upright, by its EXIF orientation; 1 is upright."""

LARGE_PIXELS = 178_956_970
"""A larger image is read at a reduced size if a small one is needed. (Pillow's own limit.)"""

DENSE_PIXELS, PIXELS_PER_BYTE = 2**26, 1000
"""An image with more pixels than the first must not have more pixels per byte of its file than the second. No photo
comes near that; files that are made to fill the memory have far more."""

UNKNOWN_MEMORY = 2**32
"""Bytes assumed to be available where the system doesn't report it."""
SURELY_THERE = 2**28
"""Below this many bytes the available memory is not queried, which takes time."""

READERS, AHEAD = 4, 8
"""Threads that read images, and how many images wait in memory at most."""

PREFIX, FOREIGN = "ldm.", frozenset(["parameters"])
"""Our text chunks are named `ldm.<key>`, as other programs use `prompt` for other things. Those that we write for other
programs keep their names."""


@dataclass(frozen=True)
class FileFacts:
    """What reading an image file changes: its own mode in Pillow, its EXIF orientation, its transparency, frames."""

    mode: str
    orientation: int
    transparent: float
    """Share of the pixels that are not opaque."""
    frames: int


def read_image(path: Path, cover: int | None = None) -> Image.Image:
    """Reads an image file, whose content decides its format, upright and as sRGB; transparency becomes white.

    `cover` is the longer side of the size that it will be fitted to: a very large image is reduced while it is read, to
    no less than twice that. Raises `UserError` if it can't be read.
    """
    return _read(path, cover)[0]


def read_with_facts(path: Path, cover: int | None = None) -> tuple[Image.Image, FileFacts]:
    """`read_image`, and what reading the file has changed."""
    image, facts = _read(path, cover, with_facts=True)
    assert facts is not None
    return image, facts


def _read(path: Path, cover: int | None, with_facts: bool = False) -> tuple[Image.Image, FileFacts | None]:
    try:
        with open_regular(path) as stream, open_image(stream, path) as file:
            mode, before = file.mode, _turned_by_decoder(file)
            _load_bounded(file, path, os.fstat(stream.fileno()).st_size, _reduction(file.size, cover))
            # After loading: some decoders turn the image while they load it, and then remove the tag.
            turn = UPRIGHT.get(file.getexif().get(ExifTags.Base.Orientation, 1))
            image = to_srgb(_reduced(file, cover), path)
            upright = image.transpose(turn) if turn is not None else image
            if not with_facts:
                return upright, None
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1) if before == 1 else before
            return upright, FileFacts(
                mode, orientation if orientation in UPRIGHT else 1, _transparent_share(file), _frames(file)
            )
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


def _turned_by_decoder(file: ImageFile.ImageFile) -> int:
    """The EXIF orientation of a file whose decoder turns the image and removes the tag (TIFF, HEIC); else 1."""
    orientation = file.info.get("original_orientation") or getattr(file, "tag_v2", {}).get(ExifTags.Base.Orientation)
    return orientation if orientation in UPRIGHT else 1


def _transparent_share(image: Image.Image) -> float:
    if not image.has_transparency_data:
        return 0.0
    alpha = image.convert("RGBA").getchannel("A").histogram()
    return 1 - alpha[-1] / sum(alpha)


def _frames(file: ImageFile.ImageFile) -> int:
    """How many images a file holds; the first is read. 1 if the others are damaged."""
    try:
        return int(getattr(file, "n_frames", 1))
    except (OSError, EOFError, ValueError, SyntaxError, KeyError, struct.error):
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `read_image` returns a file: upright, in sRGB, transparency white. Raises `UserError`."""
    try:
        image.load()  # some decoders turn the image while they load it, and then remove the tag
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        converted = to_srgb(image, Path(getattr(image, "filename", "") or "the image"))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or unusual image makes Pillow raise
        raise UserError(f"the image ({image.mode}, {image.size}) can't be read: {error}") from error
    return converted.transpose(turn) if turn is not None else converted


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in an image file's header, not turned. Raises `UserError` if it can't be read."""
    try:
        with open_regular(path) as stream, open_image(stream, path) as file:
            return file.size
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(f"{path} is not a readable image: {error}") from error


def _reduction(size: tuple[int, int], cover: int | None) -> int:
    """The factor by which an image of this size may be reduced and still be twice as large as needed."""
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
    """Decodes an image; a JPEG's decoder reduces it by up to `factor`.

    Raises `UserError`, before memory is allocated, if the pixels would take too much.
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
    """Half of the available bytes: other images, and the networks, need memory as well."""
    available = available_memory()
    return (UNKNOWN_MEMORY if available is None else available) // 2


def _bytes_per_pixel(file: ImageFile.ImageFile, reduced: bool) -> int:
    """Peak memory: the decoded image, and the converted copies unless it is reduced."""
    decoded = 1 if file.mode in ("1", "L", "P") else 4
    copies = 24 if file.mode in ("I", "F") else 8
    return decoded + (0 if reduced else copies)


def read_ahead(paths: Iterable[Path], height: int, width: int) -> Generator[Tensor, None, None]:
    """The images in these files in their order, cropped to (3 height width), in [-1, 1]; threads read ahead."""

    def read(path: Path) -> Tensor:
        return to_tensor(fit_image(read_image(path, max(height, width)), height, width))

    return map_ahead(read, paths, READERS, AHEAD - 1)


def fit_image(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resizes the image to cover height x width, and crops its centre."""
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
        # A tEXt chunk, which all programs read; iTXt if necessary.
        info.add_text(key if key in FOREIGN else PREFIX + key, words)
    with atomic_path(path) as partial:
        image.save(partial, format="PNG", pnginfo=info, compress_level=4)


def own_text(image: Image.Image, key: str) -> str | None:
    """The text that `save_png` wrote under a key, in earlier versions without `ldm.`; None if there is none."""
    value = image.info.get(PREFIX + key, image.info.get(key))
    return value if isinstance(value, str) else None

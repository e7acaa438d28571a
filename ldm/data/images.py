"""The one reader and writer of image files: upright, RGB, cropped to size, with every unreadable file named."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ldm.errors import UserError
from ldm.files import atomic_path, natural_key

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"]
)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a photo upright that its camera stored with this EXIF orientation; 1 is upright."""


def read_image(path: Path) -> Image.Image:
    """Opens an image file upright and as RGB; transparency becomes white. Raises `UserError` if it can't be read."""
    try:
        with Image.open(path) as file:
            turn = UPRIGHT.get(file.getexif().get(ExifTags.Base.Orientation, 1))
            image = file.transpose(turn) if turn is not None else file
            if image.mode.startswith("I"):  # 16-bit greyscale; PIL would cut off instead of scaling down
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a readable image") from None
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise UserError(f"{path} is not a readable image: {error}") from error


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resizes so that the picture covers height x width, and cuts off what stands out evenly on both sides."""
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """(3 h w) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1.0


def to_image(tensor: Tensor) -> Image.Image:
    """The picture of a tensor (3 h w) in [-1, 1]."""
    pixels = ((tensor.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def read_directory(directory: Path, height: int, width: int) -> tuple[list[Path], Tensor]:
    """All images of a directory: their paths in natural order and the pictures (n 3 height width) in [-1, 1].

    Every image file that can't be read is named in a warning. Raises `UserError` if none is left.
    """
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}")
    try:
        entries = sorted(directory.iterdir(), key=natural_key)
    except OSError as error:
        raise UserError(f"could not read the directory {directory}: {error.strerror}") from error
    paths, pictures = [], []
    for path in entries:
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        try:
            pictures.append(to_tensor(fit(read_image(path), height, width)))
            paths.append(path)
        except UserError as error:
            log.warning("left out: %s", error)
    if not paths:
        raise UserError(f"{directory} holds no readable image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return paths, torch.stack(pictures)


def save_png(path: Path, image: Image.Image, text: Mapping[str, object] | None = None) -> None:
    """Writes a PNG atomically, with `text` in its text chunks."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, str(value).encode("utf-8", "replace").decode())
    with atomic_path(path) as partial:
        image.save(partial, format="PNG", pnginfo=info, compress_level=4)

"""An image given as a file, as an opened PIL image or as a tensor: all three are read alike, or refused."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from torch import Tensor

from ldm.data.images import fit_image, read_image, to_image, to_rgb, to_tensor
from ldm.errors import UserError

PathOrText = str | os.PathLike[str]
ImageLike = PathOrText | Image.Image | Tensor
"""A file, an image, or a tensor (3 h w) in [-1, 1]."""


def encoded_size(image: ImageLike, size: tuple[int, int], factor: int) -> tuple[int, int]:
    """(height, width) at which an image is encoded: a tensor's own, whose sides are multiples of `factor`; else `size`.

    Raises `UserError` for a tensor that is no image.
    """
    if not isinstance(image, Tensor):
        return size
    height, width = _checked(image).shape[1:]
    if height % factor or width % factor:
        raise UserError(f"the sides of an image should be multiples of {factor}, not {(*image.shape,)}")
    return height, width


def image_tensor(image: ImageLike, height: int, width: int) -> Tensor:
    """The image (3 height width) in [-1, 1]; a tensor is of this size already."""
    if isinstance(image, Tensor):
        return image.float()
    if isinstance(image, Image.Image):
        return to_tensor(fit_image(to_rgb(image), height, width))
    if not isinstance(image, str | os.PathLike):
        raise UserError(_no_image(image))
    return to_tensor(fit_image(read_image(Path(image), max(height, width)), height, width))


@contextmanager
def file_of(image: ImageLike | None) -> Iterator[PathOrText | None]:
    """The image to start from as a file, which is what the command reads; a tensor is rounded to 8 bits."""
    if image is None or isinstance(image, str | os.PathLike):
        if image is not None and Path(image).is_dir():
            raise UserError(f"{image} is a folder, and an image is needed; img2img.py -i takes a folder")
        yield image
        return
    if isinstance(image, Tensor):
        opened = to_image(_checked(image[0] if image.ndim == 4 and len(image) == 1 else image))
    elif isinstance(image, Image.Image):
        opened = to_rgb(image)
    else:
        raise UserError(_no_image(image))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "init.png")
        opened.save(path)
        yield path


def _checked(image: Tensor) -> Tensor:
    """Raises `UserError` unless it is (3 h w) of finite floating-point numbers in [-1, 1]."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise UserError(f"a tensor of an image should be (3 h w), not {(*image.shape,)}")
    if not image.is_floating_point() or not image.abs().max() <= 1.0001:  # NaN is not, either
        raise UserError("a tensor of an image should hold floating-point numbers in [-1, 1]")
    return image


def _no_image(image: object) -> str:
    return f"an image should be a path, a PIL image or a tensor (3 h w) in [-1, 1], not {type(image).__name__}"

"""What a network wants images to be: resized, cropped and normalised, in torch, as transformers' processors do it.

Images are rounded to 8 bits first, as if they had been saved and read again. They are resized with antialiasing along
their width, rounded, then along their height, and rounded again, with the roundings of Pillow. What comes out differs
from Pillow's by one or two of 255 levels in less than a hundredth of the pixels (bicubic; bilinear: a tenth), where a
value lies between two levels. From version 13 on, Pillow takes some shapes' height first, which makes up to three
levels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import UserError

RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as they stand in `preprocessor_config.json`."""


@dataclass(frozen=True)
class Preprocessing:
    """How to prepare images of any size."""

    resample: str
    """"bilinear" or "bicubic"."""
    size: tuple[int, int] | int
    """Height and width to resize to; one number: the shorter side's, the other in proportion."""
    crop: tuple[int, int] | None
    """Height and width to cut out of the middle afterwards."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """By channel, of values in [0, 1]."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (b 3 h w) in [-1, 1] as the network wants them: float32, about standard normal."""
        levels = _eight_bits((images.float() + 1.0) * 127.5)
        levels = self._resize(levels)
        if self.crop is not None:
            levels = centre_crop(levels, *self.crop)
        mean, std = (torch.tensor(values, device=levels.device)[:, None, None] for values in (self.mean, self.std))
        return (levels / 255.0 - mean) / std

    def _resize(self, levels: Tensor) -> Tensor:
        height, width = self._resized(*levels.shape[-2:])
        if levels.shape[-1] != width:
            levels = _eight_bits(self._interpolate(levels, (levels.shape[-2], width)))
        if levels.shape[-2] != height:
            levels = _eight_bits(self._interpolate(levels, (height, width)))
        return levels

    def _interpolate(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(levels, size, mode=self.resample, antialias=True)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        shorter = min(height, width)
        return self.size * height // shorter, self.size * width // shorter


def _eight_bits(levels: Tensor) -> Tensor:
    """The nearest whole numbers from 0 to 255, halves upwards."""
    return (levels + 0.5).floor().clamp(0.0, 255.0)


def centre_crop(levels: Tensor, height: int, width: int) -> Tensor:
    """The middle of images (b c h w); what is missing on a side is black."""
    missing_h, missing_w = max(height - levels.shape[-2], 0), max(width - levels.shape[-1], 0)
    if missing_h or missing_w:
        left, top = missing_w // 2, missing_h // 2
        levels = F.pad(levels, (left, missing_w - left, top, missing_h - top))
    top, left = (levels.shape[-2] - height) // 2, (levels.shape[-1] - width) // 2
    return levels[..., top : top + height, left : left + width]


def read_preprocessing(path: Path, one_number_is_a_square: bool) -> Preprocessing:
    """Reads a `preprocessor_config.json`. Raises `UserError` if it says something else than how to do the above.

    Older files give the size as one number: ViT's mean a square by it, CLIP's the shorter side.
    """
    values = read_json(path)
    for key, wanted in (("do_resize", True), ("do_rescale", True), ("do_normalize", True)):
        if values.get(key, wanted) is not wanted:
            raise UserError(f"{path}: '{key}' should be true")
    try:
        size = _size(values["size"], one_number_is_a_square)
        cropped = values.get("do_center_crop", False)
        crop = _size(values["crop_size"], one_number_is_a_square=True) if cropped else None
        if isinstance(crop, int):
            raise ValueError("crop_size should give a height and a width")
        mean, std = (tuple(float(value) for value in values[key]) for key in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
            raise ValueError("image_mean and image_std should hold three numbers each")
        resample = RESAMPLING[values["resample"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} can't be understood: {type(error).__name__}: {error}") from error
    return Preprocessing(resample, size, crop, mean, std)


def _size(value: Any, one_number_is_a_square: bool) -> tuple[int, int] | int:
    if isinstance(value, Mapping):
        sides = [value["shortest_edge"]] if "shortest_edge" in value else [value["height"], value["width"]]
    else:
        sides = [value] * (2 if one_number_is_a_square else 1)
    sides = [int(side) for side in sides]
    if min(sides) < 1:
        raise ValueError("a size should be at least 1")
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `UserError` if it is something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path} can't be read as JSON: {str(error)[:200]}") from error
    return values

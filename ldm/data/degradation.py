"""Random degradations of images: of sharpness, detail and colours. The judge is trained on degraded images.

Every function maps images (b 3 h w) in [-1, 1] to such images; only `degrade` clamps them to that range. All random
numbers come from a CPU generator.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

BLUR = (0.4, 1.6)
"""Standard deviations in pixels."""
SHRINK = (1.4, 3.0)
"""Factors by which an image is shrunk and enlarged again."""
COARSENESS = (0.02, 0.06)
"""Quantisation steps of a block's mean; those of the finest detail are fifteen times as wide."""
BLOCK = 8
ZOOM, SHIFT = (0.85, 1.05), 0.06
"""The visible part's side as a share of the image's, and how far it is moved, at most."""
GAIN, OFFSET = 0.08, 0.06
NOISE = (0.0, 0.1)
REFRAMED = RECOLOURED = NOISY = 0.5
"""Shares of the images that are reframed, that are recoloured, and that get noise."""

Degradation = Callable[[Tensor, torch.Generator], Tensor]


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Randomly mirrors, reframes, blurs or coarsens, recolours each image and adds noise."""
    images = _in_part(images, 0.5, lambda part, _: part.flip(-1), generator)
    images = _in_part(images, REFRAMED, reframe, generator)
    degradations: list[Degradation] = [blur, shrink, coarsen, lambda part, _: part]
    kinds = torch.randint(len(degradations), (len(images),), generator=generator)
    for kind, degradation in enumerate(degradations):
        images = _where(images, kinds == kind, degradation, generator)
    images = _in_part(images, RECOLOURED, recolour, generator)
    return _in_part(images, NOISY, add_noise, generator).clamp(-1.0, 1.0)


def reframe(images: Tensor, generator: torch.Generator) -> Tensor:
    """Zooms and moves each image a little."""
    side = _uniform(ZOOM, len(images), generator)
    transform = torch.zeros(len(images), 2, 3)
    transform[:, 0, 0] = transform[:, 1, 1] = side
    transform[:, :, 2] = 2 * SHIFT * (2 * torch.rand(len(images), 2, generator=generator) - 1)
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blurs all images with the same Gaussian."""
    deviation = float(_uniform(BLUR, 1, generator))
    radius = math.ceil(3 * deviation)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.mT, groups=3)


def shrink(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shrinks all images by the same factor and enlarges them again, which removes detail."""
    size = images.shape[-2:]
    factor = float(_uniform(SHRINK, 1, generator))
    small = F.interpolate(images, [round(s / factor) for s in size], mode="bilinear", antialias=True)
    return F.interpolate(small, size, mode="bilinear", align_corners=False)


def coarsen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rounds each block's cosine coefficients as JPEG does, finer ones to wider steps."""
    cosines = _cosines(BLOCK)
    order = torch.arange(BLOCK)
    step = float(_uniform(COARSENESS, 1, generator)) * (1 + order[:, None] + order[None, :]) * BLOCK
    blocks = {"h": images.shape[-2] // BLOCK, "w": images.shape[-1] // BLOCK}
    pixels = rearrange(images, "b c (h i) (w j) -> b c h w i j", **blocks)
    coefficients = torch.round(cosines @ pixels @ cosines.mT / step) * step
    return rearrange(cosines.mT @ coefficients @ cosines, "b c h w i j -> b c (h i) (w j)")


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Changes gain and offset of each image's channels a little."""
    shape = (len(images), 3, 1, 1)
    gain = 1 + GAIN * (2 * torch.rand(shape, generator=generator) - 1)
    return images * gain + OFFSET * (2 * torch.rand(shape, generator=generator) - 1)


def add_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Adds Gaussian noise of a random strength to each image."""
    strength = _uniform(NOISE, len(images), generator)[:, None, None, None]
    return images + strength * torch.randn(images.shape, generator=generator)


def _cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform: row k is the cosine of frequency k."""
    position = (torch.arange(size) + 0.5) / size
    rows = torch.cos(math.pi * torch.arange(size)[:, None] * position) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def _in_part(images: Tensor, share: float, degradation: Degradation, generator: torch.Generator) -> Tensor:
    return _where(images, torch.rand(len(images), generator=generator) < share, degradation, generator)


def _where(images: Tensor, chosen: Tensor, degradation: Degradation, generator: torch.Generator) -> Tensor:
    """Applies the degradation to the chosen images."""
    if not chosen.any():
        return images
    images = images.clone()
    images[chosen] = degradation(images[chosen], generator)
    return images


def _uniform(bounds: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=generator)

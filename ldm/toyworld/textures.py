"""Colour on surfaces: blending, noise, random numbers for tiles, planks and stars, and the patterns on objects.

All random numbers come from one seeded table, so that a texture is the same on every device.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.noise import derived_generator
from ldm.toyworld.sdf import length2
from ldm.toyworld.shapes import Parts, Shape, ring_frame
from ldm.toyworld.words import PATTERN_NAMES, RGB

TABLE = 64
"""Rows and columns of the table of random numbers; cells further apart than that repeat."""
NOISE_PERIOD, NOISE_TEXELS, NOISE_OCTAVES = 32, 8, 4
"""The noise repeats after 32 of its largest features, which are 8 texels wide."""
RING_ROUND, TUBE_ROUND = 10, 4
"""Spots and checks along a ring and around its tube."""


def linear(srgb: Sequence[float]) -> RGB:
    """Light intensities of an sRGB colour (gamma 2.2)."""
    red, green, blue = (channel**2.2 for channel in srgb)
    return red, green, blue


def blend(low: RGB | Tensor, high: RGB | Tensor, weight: Tensor) -> Tensor:
    """From `low` where weight (n,) is 0 to `high` where it is 1: (3 n). Colours are RGB or (3 n)."""
    return torch.lerp(_broadcastable(low, weight), _broadcastable(high, weight), weight)


def where(mask: Tensor, colour: RGB | Tensor, otherwise: RGB | Tensor) -> Tensor:
    """`colour` where the mask (n,) holds, else `otherwise`: (3 n). Colours are RGB or (3 n)."""
    return torch.where(mask, _broadcastable(colour, mask), _broadcastable(otherwise, mask))


def _broadcastable(colour: RGB | Tensor, like: Tensor) -> Tensor:
    return colour if isinstance(colour, Tensor) else _column(colour, like.device)


@cache
def _column(colour: RGB, device: torch.device) -> Tensor:
    """(3 1)"""
    return torch.tensor(colour, device=device)[:, None]


@cache
def _random_table(device: torch.device) -> Tensor:
    """(TABLE * TABLE,) in [0, 1)."""
    return torch.rand(TABLE * TABLE, generator=derived_generator(20)).to(device)


def cell_random(column: Tensor, row: Tensor | int) -> Tensor:
    """A random number in [0, 1) for each cell of a grid, given its whole coordinates (n,) as floats."""
    j = row.long() if isinstance(row, Tensor) else row
    return _random_table(column.device).take(column.long() % TABLE * TABLE + j % TABLE)


@cache
def _noise_texture(device: torch.device) -> Tensor:
    """Fractal value noise in [0, 1] around 0.5: (1 1 s+1 s+1), the first row and column again at the end."""
    generator = derived_generator(21)
    side = NOISE_PERIOD * NOISE_TEXELS
    texture = torch.zeros(1, 1, side, side)
    for octave in range(NOISE_OCTAVES):
        scale = NOISE_TEXELS // 2**octave
        lattice = torch.rand(1, 1, side // scale, side // scale, generator=generator)
        around = F.pad(lattice, (1, 1, 1, 1), mode="circular")
        smooth = F.interpolate(around, scale_factor=scale, mode="bicubic", align_corners=False)
        texture += 0.55**octave * smooth[..., scale:-scale, scale:-scale]
    texture = (0.5 + (texture - texture.mean()) / (4 * texture.std())).clamp(0, 1)
    return F.pad(texture, (0, 1, 0, 1), mode="circular").to(device)


def noise(u: Tensor, v: Tensor) -> Tensor:
    """Fractal noise in [0, 1] (n,); its largest features have about size 1, its finest an eighth."""
    grid = torch.stack([u, v], dim=-1).remainder_(NOISE_PERIOD).mul_(2 / NOISE_PERIOD).sub_(1)
    texture = _noise_texture(u.device)
    return F.grid_sample(texture, grid[None, None], padding_mode="border", align_corners=True).reshape(-1)


def fractional(t: Tensor) -> Tensor:
    """The distance to the next whole number below, in [0, 1); for negative numbers too."""
    return t - t.floor()


def second_colour(
    pattern: Tensor, shape: Shape, dimensions: Parts, points: Tensor, normals: Tensor, scale: Tensor, phase: Tensor
) -> Tensor:
    """Whether each point has the second colour: (n,) bool.

    pattern (n,) int64 index into PATTERN_NAMES; dimensions (n,) each; points, normals (3 n) in the object's own frame;
    scale (n,) bands in a unit; phase (n,) in [0, 1) moves the pattern along.
    """
    # u, v on the surface, in which a spot is as wide as it is high, about 1; bands run across `height`.
    x, y, z = points
    height = y * scale + phase
    if shape.wrap == "ring":
        flat_x, flat_y, flat_z = ring_frame(x, y, z, **dimensions)
        u = torch.atan2(flat_z, length2(flat_x, flat_y) - dimensions["radius"]) / (2 * math.pi) * TUBE_ROUND
        v = height = torch.atan2(flat_y, flat_x) / (2 * math.pi) * RING_ROUND + phase
    elif shape.wrap == "box":
        nx, ny, nz = normals.abs()
        u = torch.where((nz >= nx) & (nz >= ny), x, z) * scale + phase + 0.5
        v = torch.where((ny > nx) & (ny > nz), x, y) * scale + phase
    else:
        u, v = torch.atan2(z, x) / (2 * math.pi) * shape.cells, height

    row = v.floor()
    ramp = (fractional(u * 0.5) - 0.5).abs()
    masks = {
        "plain": torch.zeros_like(u, dtype=torch.bool),
        "striped": fractional(height) < 0.5,
        "spotted": length2(fractional(u + 0.5 * (row % 2)) - 0.5, fractional(v) - 0.5) < 0.31,
        "checkered": (u.floor() + row) % 2 > 0.5,
        "spiral": fractional(height * 0.75 + u / shape.cells * 2) < 0.5,
        "zigzag": fractional(height * 0.75 + ramp * 1.6) < 0.5,
        "wavy": fractional(height * 0.75 + torch.sin(u * math.pi * 0.5) * 0.3) < 0.5,
    }
    return torch.stack([masks[name] for name in PATTERN_NAMES]).gather(0, pattern[None])[0]

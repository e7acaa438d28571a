"""Where on an object the second colour lies: stripes, spots, checks, and a subject's spirals, zigzags and waves."""

import math

import torch
from torch import Tensor

from ldm.toyworld.sdf import length2
from ldm.toyworld.shapes import Parts, Shape, ring_frame
from ldm.toyworld.textures import fractional
from ldm.toyworld.words import PATTERNS, SUBJECT_PATTERNS

RING_ROUND, TUBE_ROUND = 10, 4
"""Spots and checks along a ring and around its tube."""

PATTERN_NAMES = (*PATTERNS, *SUBJECT_PATTERNS)


def second_colour(
    pattern: Tensor, shape: Shape, dimensions: Parts, points: Tensor, normals: Tensor, scale: Tensor, phase: Tensor
) -> Tensor:
    """Whether the second colour is at each point: (n,) bool.

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

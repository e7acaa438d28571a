"""Signed distance functions: how far a point is from a solid, negative inside.

Points are coordinates x, y, z of equal shapes; y is up. Bodies of revolution take r, the distance from the y axis.
The formulas are Inigo Quilez's (iquilezles.org/articles/distfunctions); where one is only a lower bound of
the distance, its docstring says so, and sphere tracing needs more steps.
"""

import torch
from torch import Tensor

Number = Tensor | float


def length2(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a² + b²)"""
    return torch.addcmul(a * a, b, b).sqrt_()


def length3(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """sqrt(a² + b² + c²)"""
    return torch.addcmul(torch.addcmul(a * a, b, b), c, c).sqrt_()


def smooth_union(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """The union of two solids with a fillet of about `radius` where they meet (polynomial smooth minimum)."""
    h = (radius - (a - b).abs()).clamp_(min=0)
    return torch.minimum(a, b) - h * h * (0.25 / radius)


def sphere(x: Tensor, y: Tensor, z: Tensor, radius: Number) -> Tensor:
    """A ball around the origin."""
    return length3(x, y, z) - radius


def ellipsoid(x: Tensor, y: Tensor, z: Tensor, rx: Number, ry: Number, rz: Number) -> Tensor:
    """An ellipsoid around the origin with half axes rx, ry, rz; exact to first order near its surface."""
    u, v, w = x / rx, y / ry, z / rz
    scaled = length3(u, v, w)
    return scaled * (scaled - 1) / (length3(u / rx, v / ry, w / rz) + 1e-6)


def rounded_box(x: Tensor, y: Tensor, z: Tensor, hx: Number, hy: Number, hz: Number, rounding: Number) -> Tensor:
    """A box around the origin with half sides hx, hy, hz and rounded edges."""
    dx, dy, dz = x.abs() - (hx - rounding), y.abs() - (hy - rounding), z.abs() - (hz - rounding)
    outside = length3(dx.clamp(min=0), dy.clamp(min=0), dz.clamp(min=0))
    return outside + torch.maximum(dx, torch.maximum(dy, dz)).clamp_(max=0) - rounding


def cylinder(r: Tensor, y: Tensor, radius: Number, half_height: Number, rounding: Number) -> Tensor:
    """A cylinder around the y axis with rounded rims; also any extrusion, given a distance r to its outline."""
    dr, dy = r - (radius - rounding), y.abs() - (half_height - rounding)
    return length2(dr.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dr, dy).clamp_(max=0) - rounding


def frustum(r: Tensor, y: Tensor, bottom: Number, top: Number, half_height: Number, rounding: Number) -> Tensor:
    """A cut cone around the y axis, radius `bottom` below and `top` above. A lower bound near its rims."""
    slope = (top - bottom) / (2 * half_height)
    steepness = (1 + slope * slope) ** 0.5
    side = (r - (bottom + top) / 2 - slope * y) / steepness + rounding
    cap = y.abs() - (half_height - rounding)
    return length2(side.clamp(min=0), cap.clamp(min=0)) + torch.maximum(side, cap).clamp_(max=0) - rounding


def torus(x: Tensor, y: Tensor, z: Tensor, ring: Number, tube: Number) -> Tensor:
    """A ring in the plane z = 0, of radius `ring` to the middle of a tube of radius `tube`."""
    return length2(length2(x, y) - ring, z) - tube

"""Rays, vectors and sphere tracing (Hart 1996): a ray advances by the distance to the nearest surface, which is free.

Many vectors or rays at once are columns, (3 n). In tracing, all points are in the objects' own frames, and `bodies`
holds one object per ray.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.toyworld.shapes import Parts, Shape

HIT = 0.0025
"""Nearer than this is on the surface; about half a pixel at 128 x 128."""
ROUNDS, STEPS_PER_ROUND = 9, 8
SHADOW_ROUNDS, SHADOW_STEPS_PER_ROUND = 7, 5
PENUMBRA = 9.0
"""Sharpness of shadows: the light's distance over its size."""


def take(columns: Tensor, index: Tensor) -> Tensor:
    """The columns, or numbers, at `index` (m,); several times as fast as `columns[:, index]` on the CPU."""
    return columns.index_select(-1, index)


def put(columns: Tensor, index: Tensor, values: Tensor) -> None:
    """Replaces the columns, or numbers, at `index` (m,) in place."""
    columns.index_copy_(-1, index, values)


def indices(mask: Tensor) -> Tensor:
    """Where the mask (n,) holds, in order."""
    return mask.nonzero()[:, 0]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(n,)"""
    return (a * b).sum(0)


def unit(vectors: Tensor) -> Tensor:
    """The vectors at length 1; zero stays zero."""
    return vectors / dot(vectors, vectors).sqrt().clamp(min=1e-12)


@dataclass(frozen=True)
class Rays:
    """Rays through the scenes of a pass."""

    scene: Tensor
    """(n,) int64: in which scene."""
    origin: Tensor
    direction: Tensor
    """(3 n) each, in the world; directions have length 1."""

    def of(self, index: Tensor) -> "Rays":
        """The rays at `index`."""
        return Rays(take(self.scene, index), take(self.origin, index), take(self.direction, index))

    def at(self, distance: Tensor) -> Tensor:
        """The points (3 n) at a distance (n,) along the rays."""
        return self.origin + distance * self.direction


@dataclass(frozen=True)
class Bodies:
    """Objects of one class, one per column."""

    shape: Shape
    dimensions: Tensor
    """(k n), the values of `shape.ranges`."""
    box: Tensor
    """(3 n): half width, height, half depth."""
    waist: Tensor | None
    """(n,), or None if none of the objects has one."""

    def of(self, index: Tensor) -> "Bodies":
        """The bodies of the rays or points at `index`, one column each."""
        return replace(
            self,
            dimensions=take(self.dimensions, index),
            box=take(self.box, index),
            waist=None if self.waist is None else take(self.waist, index),
        )

    def named_dimensions(self) -> dict[str, Tensor]:
        """(n,) each."""
        return dict(zip(self.shape.ranges, self.dimensions, strict=True))

    def parts(self, points: Tensor) -> Parts:
        """The distance of each point to each part."""
        x, y, z = points
        dimensions = self.named_dimensions()
        if self.waist is None:
            return self.shape.parts(x, y, z, **dimensions)
        # Narrower in the middle, wider above and below; distances shrink with the space that is bent.
        width = 1 - self.waist * torch.cos(2 * torch.pi * (y / self.box[1] - 0.5))
        safe = 1 / (1 + 2.5 * self.waist.abs())
        return {name: d * safe for name, d in self.shape.parts(x / width, y, z / width, **dimensions).items()}

    def distance(self, points: Tensor) -> Tensor:
        """The distance of each point to the object (n,)."""
        parts = list(self.parts(points).values())
        nearest = parts[0]
        for part in parts[1:]:
            nearest = torch.minimum(nearest, part)
        return nearest


def box_span(origin: Tensor, direction: Tensor, box: Tensor, margin: float = 0.01) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave their boxes (slab method): (near, far), (n,); near > far where they miss."""
    half_width, height, half_depth = box
    inverse = 1 / torch.where(direction.abs() < 1e-6, 1e-6, direction)
    low = torch.stack([-half_width, torch.zeros_like(height), -half_depth]) - margin
    high = torch.stack([half_width, height, half_depth]) + margin
    first, second = (low - origin) * inverse, (high - origin) * inverse
    return torch.minimum(first, second).amax(0).clamp(min=0), torch.maximum(first, second).amin(0)


def trace(bodies: Bodies, origin: Tensor, direction: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each surface along its ray (n,), and whether there is one before `far` (n,) bool."""
    travelled = near.clone()
    hit = torch.zeros_like(near, dtype=torch.bool)
    active = indices(near < far)
    for _ in range(ROUNDS):
        if len(active) == 0:
            break
        its, start, along = bodies.of(active), take(origin, active), take(direction, active)
        t = take(travelled, active)
        for _ in range(STEPS_PER_ROUND):
            distance = its.distance(torch.addcmul(start, along, t))
            t = t + torch.where(distance < HIT, 0.0, distance)
        inside = t < take(far, active)
        put(travelled, active, t)
        put(hit, active, (distance < HIT) & inside)
        active = active[(distance >= HIT) & inside]
    return travelled, hit


def normals(bodies: Bodies, points: Tensor, step: float = 0.003) -> Tensor:
    """Unit normals (3 n): the gradient of the distance, from the corners of a tetrahedron."""
    corners = torch.tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=points.dtype, device=points.device)
    gradient = torch.zeros_like(points)
    for corner in corners:
        gradient += corner[:, None] * bodies.distance(points + corner[:, None] * step)
    return unit(gradient)


def sunlit(bodies: Bodies, points: Tensor, sun: Tensor) -> Tensor:
    """The share of the sun that reaches each point past its body, 0 to 1 (n,); `sun` (3 n): unit directions to it.

    A ray that passes the body at distance d after walking t is darkened by PENUMBRA * d / t (Quilez, "soft shadows").
    """
    light = torch.ones_like(points[0])
    near, far = box_span(points, sun, bodies.box, margin=0.12)
    active = indices(near < far)
    travelled = near.clamp(min=0.02)
    for _ in range(SHADOW_ROUNDS):
        if len(active) == 0:
            break
        its, start, along = bodies.of(active), take(points, active), take(sun, active)
        t, lit = take(travelled, active), take(light, active)
        for _ in range(SHADOW_STEPS_PER_ROUND):
            distance = its.distance(torch.addcmul(start, along, t))
            lit = torch.minimum(lit, PENUMBRA * distance / t)
            t = t + distance.clamp(0.02, 0.25)
        put(travelled, active, t)
        put(light, active, lit.clamp(min=0))
        active = active[(t < take(far, active)) & (lit > 0.01)]
    return light * light * (3 - 2 * light)

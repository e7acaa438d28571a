"""The points of objects that a camera sees: where they are, how they are painted, how much light reaches them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.toyworld.patterns import second_colour
from ldm.toyworld.stage import Stage
from ldm.toyworld.textures import linear, where
from ldm.toyworld.tracing import Bodies, box_span, normals, sunlit, trace
from ldm.toyworld.vectors import Rays, dot, indices, put, take

PART_PAINTS = {
    "dark": linear((0.07, 0.07, 0.08)),
    "light": linear((0.96, 0.90, 0.78)),
    "beak": linear((0.98, 0.50, 0.05)),
    "grey": linear((0.40, 0.38, 0.37)),
}
"""The parts that don't have the object's colours (`shapes`)."""

LIFT = 0.02
"""From how far off a surface its shadows are traced."""
OCCLUSION_REACH = 0.22


@dataclass(frozen=True)
class Surface:
    """One column a sample that sees an object; points and vectors in the world."""

    sample: Tensor
    """(n,) index into the samples of the pass."""
    scene: Tensor
    """(n,)"""
    point: Tensor
    normal: Tensor
    albedo: Tensor
    """(3 n) each."""
    sunlit: Tensor
    open_sky: Tensor
    """(n,) each: the share of the sun and of the sky that reaches it."""
    painted: Tensor
    """(n,) bool: in the object's own colours."""


def see_objects(stage: Stage, bodies: Bodies, rays: Rays, ground: Tensor) -> Surface:
    """The surface that rays meet before they meet the ground at distance `ground` (n,).

    `bodies` has one object for each scene of the stage.
    """
    start = stage.raised(stage.to_object(rays.origin, rays.scene), rays.scene)
    along = stage.to_object(rays.direction, rays.scene)
    near, far = box_span(start, along, take(bodies.box, rays.scene))
    far = torch.minimum(far, ground)
    candidates = indices(near < far)
    its, start, along = bodies.of(take(rays.scene, candidates)), take(start, candidates), take(along, candidates)
    distance, hit = trace(its, start, along, take(near, candidates), take(far, candidates))

    seen = indices(hit)
    sample, its, distance = take(candidates, seen), its.of(seen), take(distance, seen)
    seen_rays = rays.of(sample)
    point = take(start, seen) + distance * take(along, seen)
    normal = normals(its, point)
    albedo, painted = _paint(stage, its, seen_rays.scene, point, normal)
    return Surface(
        sample=sample,
        scene=seen_rays.scene,
        point=seen_rays.at(distance),
        normal=stage.to_world(normal, seen_rays.scene),
        albedo=albedo,
        sunlit=_self_shadow(stage, its, seen_rays.scene, point, normal),
        open_sky=_open_sky(its, point, normal),
        painted=painted,
    )


def _paint(stage: Stage, its: Bodies, scene: Tensor, point: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Albedo (3 n), and whether it is one of the object's own two colours (n,)."""
    parts = its.parts(point)
    names = list(parts)
    nearest = torch.stack(list(parts.values())).argmin(0)
    second = second_colour(
        take(stage.pattern, scene),
        its.shape,
        its.named_dimensions(),
        point,
        normal,
        take(stage.pattern_scale, scene),
        take(stage.pattern_phase, scene),
    )
    if "accent" in parts:
        second = second | (nearest == names.index("accent"))
    albedo = torch.where(second, take(stage.second_paint, scene), take(stage.main_paint, scene))
    painted = torch.ones_like(second)
    for name in names:
        if name in PART_PAINTS:
            here = nearest == names.index(name)
            albedo = where(here, PART_PAINTS[name], albedo)
            painted = painted & ~here
    return albedo, painted


def _self_shadow(stage: Stage, its: Bodies, scene: Tensor, point: Tensor, normal: Tensor) -> Tensor:
    """The share of the sun that the object leaves to its own points; 0 where they face away."""
    sun = stage.to_object(take(stage.sun, scene), scene)
    facing = indices(dot(normal, sun) > 0)
    light = torch.zeros_like(point[0])
    put(light, facing, sunlit(its.of(facing), take(point + normal * LIFT, facing), take(sun, facing)))
    return light


def _open_sky(its: Bodies, point: Tensor, normal: Tensor) -> Tensor:
    """The share of the surroundings' light that reaches a point: less in its own creases and near the ground."""
    crease = (its.distance(point + normal * OCCLUSION_REACH) / OCCLUSION_REACH).clamp(0, 1)
    height = (point[1] / 0.4).clamp(0, 1)
    return (0.3 + 0.7 * crease) * (0.6 + 0.4 * height)


def shadow_on_ground(stage: Stage, bodies: Bodies, scene: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of the sun and of the sky that reach ground points (3 n): (n,) each."""
    local = stage.raised(stage.to_object(point, scene), scene)
    sun = stage.to_object(take(stage.sun, scene), scene)
    box = take(bodies.box, scene)

    light, sky = torch.ones_like(point[0]), torch.ones_like(point[0])
    near, far = box_span(local, sun, box, margin=0.12)
    shaded = indices(near < far)
    put(light, shaded, sunlit(bodies.of(take(scene, shaded)), take(local, shaded), take(sun, shaded)))

    beside = (local[0].abs() < box[0] + 2 * OCCLUSION_REACH) & (local[2].abs() < box[2] + 2 * OCCLUSION_REACH)
    close = indices(beside)
    above = take(local, close) + point.new_tensor([0.0, 0.06, 0.0])[:, None]
    distance = bodies.of(take(scene, close)).distance(above)
    put(sky, close, 0.35 + 0.65 * (distance / (2 * OCCLUSION_REACH)).clamp(0, 1).sqrt())
    return light, sky

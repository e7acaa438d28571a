"""Objects in the image: their visible points with paint, light and shadow, and their reflections on the ground."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.toyworld.stage import Stage
from ldm.toyworld.surroundings import ground_light, trace_surroundings
from ldm.toyworld.textures import linear, noise, second_colour, where
from ldm.toyworld.tracing import Bodies, Rays, box_span, dot, indices, normals, put, sunlit, take, trace, unit

PART_PAINTS = {
    "dark": linear((0.07, 0.07, 0.08)),
    "light": linear((0.96, 0.90, 0.78)),
    "beak": linear((0.98, 0.50, 0.05)),
    "grey": linear((0.40, 0.38, 0.37)),
}
"""The paints of parts without the object's own colours (`shapes`)."""

LIFT = 0.02
"""The distance from a surface at which its shadows are traced."""
OCCLUSION_REACH = 0.22
FROM_BELOW = 0.6
"""The ground's light as a share of the sky's."""
BRIGHTEST_MIRROR = 1.5
"""Reflections are clamped to this, or a sun in a small mirror would sparkle."""


@dataclass(frozen=True)
class Surface:
    """One column per sample that hits an object; points and vectors in the world."""

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


def trace_objects(stage: Stage, bodies: Bodies, rays: Rays, ground: Tensor) -> Surface:
    """The surfaces that rays hit before the ground at distance `ground` (n,).

    `bodies` has one object for each scene of the stage.
    """
    start = stage.raised(stage.to_object(rays.origin, rays.scene), rays.scene)
    along = stage.to_object(rays.direction, rays.scene)
    near, far = box_span(start, along, take(bodies.box, rays.scene))
    far = torch.minimum(far, ground)
    candidates = indices(near < far)
    its, start, along = bodies.of(take(rays.scene, candidates)), take(start, candidates), take(along, candidates)
    distance, hit = trace(its, start, along, take(near, candidates), take(far, candidates))

    hits = indices(hit)
    sample, its, distance = take(candidates, hits), its.of(hits), take(distance, hits)
    hit_rays = rays.of(sample)
    point = take(start, hits) + distance * take(along, hits)
    normal = normals(its, point)
    albedo, painted = _paint(stage, its, hit_rays.scene, point, normal)
    return Surface(
        sample=sample,
        scene=hit_rays.scene,
        point=hit_rays.at(distance),
        normal=stage.to_world(normal, hit_rays.scene),
        albedo=albedo,
        sunlit=_self_shadow(stage, its, hit_rays.scene, point, normal),
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
            is_part = nearest == names.index(name)
            albedo = where(is_part, PART_PAINTS[name], albedo)
            painted = painted & ~is_part
    return albedo, painted


def _self_shadow(stage: Stage, its: Bodies, scene: Tensor, point: Tensor, normal: Tensor) -> Tensor:
    """The share of the sun that reaches the object's own points; 0 where they face away."""
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


def shade(stage: Stage, surface: Surface, direction: Tensor) -> Tensor:
    """The radiance (3 n) of surfaces towards a camera that looks along `direction` (3 n)."""
    scene, normal, albedo = surface.scene, surface.normal, surface.albedo
    sun, sun_colour = take(stage.sun, scene), take(stage.sun_colour, scene)

    # Lambert's law for the sun; the sky's light from above and the ground's from below.
    above = 0.5 + 0.5 * normal[1]
    around = take(stage.ambient, scene) * ((FROM_BELOW + (1 - FROM_BELOW) * above) * surface.open_sky)
    direct = sun_colour * (dot(normal, sun).clamp(min=0) * surface.sunlit)

    # Blinn's highlight, sharp on what is shiny or metallic.
    gloss, metal = take(stage.gloss, scene) * surface.painted, take(stage.metal, scene) * surface.painted
    highlight = dot(normal, unit(sun - direction)).clamp(min=0)
    shine = highlight**80 * 1.6 * (gloss + metal) + highlight**10 * 0.04

    glow = take(stage.glow, scene) * surface.painted
    colour = albedo * ((around + direct) * (1 - 0.45 * metal) + glow) + sun_colour * (shine * surface.sunlit)
    return _with_reflections(stage, surface, direction, gloss, metal, colour)


def _with_reflections(
    stage: Stage, surface: Surface, direction: Tensor, gloss: Tensor, metal: Tensor, colour: Tensor
) -> Tensor:
    """Adds the reflections of the surroundings in shiny and metallic surfaces, stronger at grazing angles (Schlick)."""
    mirrors = indices(gloss + metal > 0)
    normal, direction, albedo = take(surface.normal, mirrors), take(direction, mirrors), take(surface.albedo, mirrors)
    gloss, metal = take(gloss, mirrors), take(metal, mirrors)
    toward = -dot(normal, direction)
    reflected = Rays(take(surface.scene, mirrors), take(surface.point, mirrors), direction + 2 * toward * normal)
    mirrored, _ = trace_surroundings(stage, reflected)
    fresnel = 0.05 + 0.55 * (1 - toward).clamp(0, 1) ** 3
    share = (gloss * fresnel + metal * (0.25 + fresnel)) * take(surface.open_sky, mirrors)
    tint = torch.lerp(torch.ones_like(albedo), albedo, (0.8 * metal).expand_as(albedo))
    put(colour, mirrors, take(colour, mirrors) + mirrored.clamp(max=BRIGHTEST_MIRROR) * tint * share)
    return colour


def darken_ground(stage: Stage, bodies: Bodies, rays: Rays, ground: Tensor, colour: Tensor) -> None:
    """Multiplies the colour (3 n) of the ground, in place, by the share of its light that passes the objects."""
    below = indices(ground.isfinite())
    its = rays.of(below)
    light, sky = shadow_on_ground(stage, bodies, its.scene, its.at(take(ground, below)))
    darker = indices(light + sky < 2)
    scene, below = take(its.scene, darker), take(below, darker)
    share = ground_light(stage, scene, take(light, darker), take(sky, darker)) / ground_light(stage, scene)
    put(colour, below, take(colour, below) * share)


def mirror_objects(stage: Stage, bodies: Bodies, rays: Rays, ground: Tensor, colour: Tensor) -> None:
    """Blends the objects' reflections into the colour (3 n) of mirroring ground, in place."""
    smooth = indices((take(stage.mirror, rays.scene) > 0) & ground.isfinite())
    its = rays.of(smooth)
    point = its.at(take(ground, smooth))
    waves = take(stage.ripple, its.scene) * (noise(point[0] * 2.5, point[2] * 5.0) - 0.5)
    x, y, z = its.direction
    reflected = Rays(its.scene, point, unit(torch.stack([x + waves, -y, z])))
    surface = trace_objects(stage, bodies, reflected, torch.full_like(waves, torch.inf))
    image = shade(stage, surface, take(reflected.direction, surface.sample))
    below = take(smooth, surface.sample)
    put(colour, below, torch.lerp(take(colour, below), image, take(stage.mirror, surface.scene).expand_as(image)))

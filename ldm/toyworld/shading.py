"""How much light objects send to the camera, and what they do to the ground: shadows and reflections."""

import torch
from torch import Tensor

from ldm.toyworld.stage import Stage
from ldm.toyworld.surface import Surface, see_objects, shadow_on_ground
from ldm.toyworld.surroundings import ground_light, look
from ldm.toyworld.textures import noise
from ldm.toyworld.tracing import Bodies
from ldm.toyworld.vectors import Rays, dot, indices, put, take, unit

FROM_BELOW = 0.6
"""The ground's light over the sky's."""
BRIGHTEST_MIRROR = 1.5
"""Reflections are cut off here, or a sun in a small mirror would sparkle."""


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
    """Adds what shiny and metallic surfaces mirror of their surroundings, more so at grazing angles (Schlick)."""
    mirrors = indices(gloss + metal > 0)
    normal, direction, albedo = take(surface.normal, mirrors), take(direction, mirrors), take(surface.albedo, mirrors)
    gloss, metal = take(gloss, mirrors), take(metal, mirrors)
    toward = -dot(normal, direction)
    reflected = Rays(take(surface.scene, mirrors), take(surface.point, mirrors), direction + 2 * toward * normal)
    seen, _ = look(stage, reflected)
    fresnel = 0.05 + 0.55 * (1 - toward).clamp(0, 1) ** 3
    share = (gloss * fresnel + metal * (0.25 + fresnel)) * take(surface.open_sky, mirrors)
    tint = torch.lerp(torch.ones_like(albedo), albedo, (0.8 * metal).expand_as(albedo))
    put(colour, mirrors, take(colour, mirrors) + seen.clamp(max=BRIGHTEST_MIRROR) * tint * share)
    return colour


def darken_ground(stage: Stage, bodies: Bodies, rays: Rays, ground: Tensor, colour: Tensor) -> None:
    """Multiplies the colour (3 n) of ground, in place, by what the objects leave of its light."""
    below = indices(ground.isfinite())
    its = rays.of(below)
    light, sky = shadow_on_ground(stage, bodies, its.scene, its.at(take(ground, below)))
    darker = indices(light + sky < 2)
    scene, below = take(its.scene, darker), take(below, darker)
    share = ground_light(stage, scene, take(light, darker), take(sky, darker)) / ground_light(stage, scene)
    put(colour, below, take(colour, below) * share)


def mirror_objects(stage: Stage, bodies: Bodies, rays: Rays, ground: Tensor, colour: Tensor) -> None:
    """Blends the objects' reflections into the colour (3 n) of ground that mirrors, in place."""
    smooth = indices((take(stage.mirror, rays.scene) > 0) & ground.isfinite())
    its = rays.of(smooth)
    point = its.at(take(ground, smooth))
    waves = take(stage.ripple, its.scene) * (noise(point[0] * 2.5, point[2] * 5.0) - 0.5)
    x, y, z = its.direction
    reflected = Rays(its.scene, point, unit(torch.stack([x + waves, -y, z])))
    surface = see_objects(stage, bodies, reflected, torch.full_like(waves, torch.inf))
    image = shade(stage, surface, take(reflected.direction, surface.sample))
    below = take(smooth, surface.sample)
    put(colour, below, torch.lerp(take(colour, below), image, take(stage.mirror, surface.scene).expand_as(image)))

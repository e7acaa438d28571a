"""The classes of objects: for each its solid parts as signed distances, its dimensions and its box.

An object stands on y = 0; y is up, its front looks along z or, for what has a profile, along x. A unit is about the
height of an object. Parts are named after their paint:

    main    the object's colours and pattern        dark    nearly black: eyes, tyres
    accent  its second colour, or a darker first    light   cream: a bear's snout, headlights
    beak    orange                                  grey    a lamp's foot
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.toyworld.sdf import (
    cylinder,
    ellipsoid,
    frustum,
    length2,
    rounded_box,
    smooth_union,
    sphere,
    torus,
)

Parts = dict[str, Tensor]
Box = tuple[float, float, float]
"""Half width, height, half depth."""


@dataclass(frozen=True)
class Shape:
    """One class of objects."""

    parts: Callable[..., Parts]
    """parts(x, y, z, **dimensions): the distance of each point to each part, (n,) each."""
    box: Callable[..., Box]
    """box(**dimensions) holds the object."""
    ranges: dict[str, tuple[float, float]]
    """The dimensions, from smallest to largest in an ordinary object."""
    views: tuple[tuple[float, float], ...]
    """Yaw angles of its photos: (centre, deviation) in degrees."""
    wrap: str
    """How a pattern lies on it: `around` the y axis, along a `ring`, or on the faces of a `box`."""
    cells: int = 8
    """Spots or checks `around` the object; even."""


ANY_SIDE = ((0.0, 180.0),)
CORNER = ((45.0, 30.0),)
PROFILE = ((-25.0, 30.0), (205.0, 30.0))
"""The views of an object with a profile: its front to the right or the left, and a little to the camera."""

CAP, CAP_HEIGHT, THROAT = 0.03, 0.14, 0.10


def bottle(x: Tensor, y: Tensor, z: Tensor, radius: Tensor, body: Tensor, shoulder: Tensor, neck: Tensor) -> Parts:
    """A body, a shoulder that narrows to the neck, a cap."""
    r = length2(x, z)
    barrel = cylinder(r, y - body / 2, radius, body / 2, 0.06)
    slope = frustum(r, y - body - shoulder / 2 + 0.03, radius - 0.03, neck, shoulder / 2 + 0.03, 0.02)
    top = body + shoulder
    throat = cylinder(r, y - top, neck, THROAT, 0.01)
    cap = cylinder(r, y - top - THROAT - CAP_HEIGHT / 2, neck + CAP, CAP_HEIGHT / 2, 0.025)
    return {"main": torch.minimum(smooth_union(barrel, slope, 0.08), throat), "accent": cap}


def bottle_box(radius: float, body: float, shoulder: float, neck: float) -> Box:
    """See `Shape.box`."""
    return max(radius, neck + CAP), body + shoulder + THROAT + CAP_HEIGHT, max(radius, neck + CAP)


def mug(x: Tensor, y: Tensor, z: Tensor, radius: Tensor, height: Tensor, handle: Tensor) -> Parts:
    """A hollow cylinder with a handle towards x."""
    r = length2(x, z)
    outside = cylinder(r, y - height / 2, radius, height / 2, 0.03)
    hollow = cylinder(r, y - height / 2 - 0.1, radius - 0.055, height / 2 + 0.02, 0.04)
    loop = torus(x - radius - 0.01, (y - height * 0.5) * 0.86, z, handle, 0.055)
    loop = torch.maximum(loop, radius - 0.03 - r)
    return {"main": torch.maximum(outside, -hollow), "accent": loop}


def mug_box(radius: float, height: float, handle: float) -> Box:
    """See `Shape.box`."""
    return radius + handle + 0.07, height, radius


def ball(x: Tensor, y: Tensor, z: Tensor, radius: Tensor) -> Parts:
    """A ball."""
    return {"main": sphere(x, y - radius, z, radius)}


def ball_box(radius: float) -> Box:
    """See `Shape.box`."""
    return radius, 2 * radius, radius


def cube(x: Tensor, y: Tensor, z: Tensor, half: Tensor, rounding: Tensor) -> Parts:
    """A cube with more or less rounded edges."""
    return {"main": rounded_box(x, y - half, z, half, half, half, rounding)}


def cube_box(half: float, rounding: float) -> Box:
    """See `Shape.box`."""
    return half, 2 * half, half


PLATE = 0.05


def cone(x: Tensor, y: Tensor, z: Tensor, height: Tensor, foot: Tensor, tip: Tensor) -> Parts:
    """A traffic cone: a cone with a blunt tip on a square plate."""
    body = frustum(length2(x, z), y - PLATE - height / 2, foot, tip, height / 2, 0.02)
    plate = cylinder(torch.maximum(x.abs(), z.abs()), y - PLATE, foot + 0.16, PLATE, 0.025)
    return {"main": body, "accent": plate}


def cone_box(height: float, foot: float, tip: float) -> Box:
    """See `Shape.box`."""
    return foot + 0.16, height + PLATE, foot + 0.16


def vase(x: Tensor, y: Tensor, z: Tensor, height: Tensor, belly: Tensor, neck: Tensor, lip: Tensor) -> Parts:
    """A belly, a narrow neck, a wide lip, and two handles. Its wall's distance is a lower bound."""
    r = length2(x, z)
    ball_y = y - belly * 1.05
    body = ellipsoid(x, ball_y, z, belly, belly * 1.05, belly)
    foot = frustum(r, y - 0.05, belly * 0.62, belly * 0.5, 0.05, 0.02)
    throat = cylinder(r, y - height * 0.72, neck, height * 0.26, 0.01)
    rim = frustum(r, y - height + 0.09, neck, lip, 0.09, 0.015)
    hollow = frustum(r, y - height + 0.06, neck - 0.04, lip - 0.03, 0.09, 0.01)
    wall = smooth_union(smooth_union(smooth_union(body, throat, 0.14), rim, 0.1), foot, 0.05)
    return {"main": torch.maximum(wall, -hollow)}


def vase_box(height: float, belly: float, neck: float, lip: float) -> Box:
    """See `Shape.box`."""
    return max(belly, lip), height, max(belly, lip)


RING_LEAN = math.radians(18)


def ring(x: Tensor, y: Tensor, z: Tensor, radius: Tensor, tube: Tensor) -> Parts:
    """A swim ring that leans back a little."""
    return {"main": torus(*ring_frame(x, y, z, radius, tube), radius, tube)}


def ring_frame(x: Tensor, y: Tensor, z: Tensor, radius: Tensor, tube: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The point in the frame of an upright ring around the origin."""
    up, cosine, sine = y - (radius * math.cos(RING_LEAN) + tube), math.cos(RING_LEAN), math.sin(RING_LEAN)
    return x, up * cosine - z * sine, up * sine + z * cosine


def ring_box(radius: float, tube: float) -> Box:
    """See `Shape.box`."""
    depth = radius * math.sin(RING_LEAN) + tube
    return radius + tube, 2 * (radius * math.cos(RING_LEAN) + tube), depth


def lamp(x: Tensor, y: Tensor, z: Tensor, height: Tensor, shade: Tensor, bottom: Tensor, top: Tensor) -> Parts:
    """A table lamp: a foot, a pole, and an open shade of height `shade`."""
    r = length2(x, z)
    pole = cylinder(r, y - height / 2, 0.04, height / 2 - 0.05, 0.01)
    foot = frustum(r, y - 0.05, bottom * 0.68, bottom * 0.5, 0.05, 0.02)
    cloth = frustum(r, y - height + shade / 2, bottom, top, shade / 2, 0.01)
    inside = frustum(r, y - height + shade / 2 - 0.01, bottom - 0.03, top - 0.03, shade / 2 + 0.02, 0.01)
    return {"main": torch.maximum(cloth, -inside), "grey": torch.minimum(pole, foot)}


def lamp_box(height: float, shade: float, bottom: float, top: float) -> Box:
    """See `Shape.box`."""
    return bottom, height, bottom


def hat(x: Tensor, y: Tensor, z: Tensor, radius: Tensor, height: Tensor, brim: Tensor, flare: Tensor) -> Parts:
    """A top hat: a crown that may widen upwards, a band around it, a brim whose sides curl up."""
    r = length2(x, z)
    crown = frustum(r, y - 0.03 - height / 2, radius, radius * flare, height / 2, 0.04)
    curl = (r - radius).clamp(min=0)
    plate = cylinder(r, y - 0.05 - curl * curl * 0.5, radius + brim, 0.04, 0.03) * 0.85
    band = cylinder(r, y - 0.20, radius * (1 + 0.25 * (flare - 1)) + 0.02, 0.09, 0.01)
    return {"main": smooth_union(crown, plate, 0.05), "accent": band}


def hat_box(radius: float, height: float, brim: float, flare: float) -> Box:
    """See `Shape.box`."""
    return radius + brim + 0.02, max(height, 0.3) + 0.04, radius + brim + 0.02


def duck(x: Tensor, y: Tensor, z: Tensor, length: Tensor, plump: Tensor, head: Tensor) -> Parts:
    """A rubber duck that looks along x."""
    side = z.abs()
    body = ellipsoid(x, y - plump, z, length, plump, plump * 1.02)
    skull = sphere(x - length * 0.5, y - plump * 1.75 - head * 0.55, z, head)
    tail = ellipsoid(x + length * 0.86, y - plump * 1.55, z, 0.22, 0.15, 0.17)
    wing = ellipsoid(x + length * 0.08, y - plump * 1.15, side - plump * 0.88, length * 0.5, plump * 0.42, 0.13)
    main = smooth_union(smooth_union(smooth_union(body, skull, 0.14), tail, 0.2), wing, 0.03)
    face = x - length * 0.5
    level = y - plump * 1.75 - head * 0.55
    beak = ellipsoid(face - head * 1.1, level + head * 0.12, z, head * 0.62, head * 0.2, head * 0.55)
    eye = sphere(face - head * 0.68, level - head * 0.36, side - head * 0.56, head * 0.2)
    return {"main": main, "beak": beak, "dark": eye}


def duck_box(length: float, plump: float, head: float) -> Box:
    """See `Shape.box`."""
    half = max(length * 0.86 + 0.22, length * 0.5 + head * 1.72)
    return half, plump * 1.75 + head * 1.55, max(plump * 1.02, plump * 0.88 + 0.13)


def teddy_bear(x: Tensor, y: Tensor, z: Tensor, belly: Tensor, head: Tensor, ear: Tensor) -> Parts:
    """A sitting bear that looks along z."""
    side = x.abs()
    neck = 0.84 + head * 0.72
    body = ellipsoid(x, y - 0.46, z, belly, 0.46, 0.34)
    skull = sphere(x, y - neck, z, head)
    ears = sphere(side - head * 0.78, y - neck - head * 0.78, z, ear)
    arms = ellipsoid(side - belly - 0.05, y - 0.62, z - 0.1, 0.24, 0.13, 0.14)
    legs = ellipsoid(side - 0.3, y - 0.17, z - 0.28, 0.17, 0.17, 0.28)
    main = smooth_union(smooth_union(body, skull, 0.06), ears, 0.04)
    main = smooth_union(smooth_union(main, arms, 0.06), legs, 0.05)
    snout = ellipsoid(x, y - neck + head * 0.28, z - head * 0.82, head * 0.46, head * 0.36, head * 0.42)
    patch = ellipsoid(x, y - 0.47, z - 0.16, belly * 0.66, 0.3, 0.21)
    soles = sphere(side - 0.3, y - 0.17, z - 0.47, 0.11)
    eyes = sphere(side - head * 0.38, y - neck - head * 0.2, z - head * 0.86, head * 0.14)
    nose = sphere(x, y - neck + head * 0.12, z - head * 1.2, head * 0.15)
    return {
        "main": main,
        "light": torch.minimum(snout, torch.minimum(patch, soles)),
        "dark": torch.minimum(eyes, nose),
    }


def teddy_bear_box(belly: float, head: float, ear: float) -> Box:
    """See `Shape.box`."""
    return max(belly + 0.29, head * 0.78 + ear), 0.84 + head * 1.5 + ear, 0.6


WHEEL = 0.17


def car(x: Tensor, y: Tensor, z: Tensor, half_length: Tensor, body: Tensor, cabin: Tensor) -> Parts:
    """A toy car that drives along x, with a body of height `body` and a cabin of half length `cabin`."""
    floor = 0.13
    side = z.abs()
    hull = rounded_box(x, y - floor - body / 2, z, half_length, body / 2, 0.36, 0.1)
    up = y - floor - body - 0.12
    narrowing = 1 - 0.42 * up
    roof = rounded_box((x + 0.1) / narrowing, up, z / narrowing, cabin, 0.19, 0.31, 0.07) * 0.8
    along = (x + 0.1).abs()
    side_panes = torch.maximum(torch.maximum(0.2 - side, along - cabin * 0.72), 0.03 - along)
    windscreens = torch.maximum(side - 0.2, cabin * 0.6 - along)
    panes = torch.maximum((up - 0.02).abs() - 0.1, torch.minimum(side_panes, windscreens))
    glass = torch.maximum(roof - 0.008, panes)
    wheel = length2(x.abs() - half_length * 0.58, y - WHEEL)
    tyres = cylinder(wheel, side - 0.33, WHEEL, 0.08, 0.04)
    hubs = cylinder(wheel, side - 0.33, WHEEL * 0.5, 0.095, 0.02)
    lights = sphere(x - half_length + 0.03, y - floor - body * 0.55, side - 0.22, 0.075)
    return {
        "main": smooth_union(hull, roof, 0.03),
        "dark": torch.minimum(tyres, glass),
        "light": torch.minimum(hubs, lights),
    }


def car_box(half_length: float, body: float, cabin: float) -> Box:
    """See `Shape.box`."""
    return half_length + 0.05, body + 0.46, 0.44


SHAPES: dict[str, Shape] = {
    "bottle": Shape(
        bottle,
        bottle_box,
        {"radius": (0.27, 0.36), "body": (0.70, 0.90), "shoulder": (0.14, 0.28), "neck": (0.10, 0.15)},
        ANY_SIDE,
        "around",
    ),
    "mug": Shape(
        mug,
        mug_box,
        {"radius": (0.36, 0.46), "height": (0.75, 0.95), "handle": (0.20, 0.26)},
        ((-15.0, 40.0), (195.0, 40.0)),
        "around",
        cells=10,
    ),
    "ball": Shape(ball, ball_box, {"radius": (0.50, 0.56)}, ANY_SIDE, "around", cells=12),
    "cube": Shape(cube, cube_box, {"half": (0.44, 0.52), "rounding": (0.02, 0.09)}, CORNER, "box"),
    "cone": Shape(
        cone, cone_box, {"height": (1.0, 1.25), "foot": (0.34, 0.44), "tip": (0.05, 0.09)}, ANY_SIDE, "around"
    ),
    "vase": Shape(
        vase,
        vase_box,
        {"height": (1.10, 1.30), "belly": (0.34, 0.44), "neck": (0.12, 0.17), "lip": (0.24, 0.34)},
        ANY_SIDE,
        "around",
    ),
    "ring": Shape(ring, ring_box, {"radius": (0.38, 0.46), "tube": (0.15, 0.21)}, ((0.0, 40.0),), "ring"),
    "lamp": Shape(
        lamp,
        lamp_box,
        {"height": (1.15, 1.35), "shade": (0.48, 0.60), "bottom": (0.40, 0.50), "top": (0.20, 0.30)},
        ANY_SIDE,
        "around",
    ),
    "hat": Shape(
        hat,
        hat_box,
        {"radius": (0.36, 0.44), "height": (0.55, 0.80), "brim": (0.22, 0.32), "flare": (0.92, 1.10)},
        ANY_SIDE,
        "around",
        cells=10,
    ),
    "duck": Shape(
        duck, duck_box, {"length": (0.56, 0.66), "plump": (0.36, 0.42), "head": (0.26, 0.31)}, PROFILE, "box"
    ),
    "teddy bear": Shape(
        teddy_bear,
        teddy_bear_box,
        {"belly": (0.38, 0.45), "head": (0.32, 0.38), "ear": (0.13, 0.17)},
        ((0.0, 35.0),),
        "box",
    ),
    "car": Shape(
        car, car_box, {"half_length": (0.72, 0.84), "body": (0.28, 0.34), "cabin": (0.38, 0.46)}, PROFILE, "box"
    ),
}

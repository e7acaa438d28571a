"""Scenes as tensors: camera, light and turned objects of a batch, one column a scene."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor

from ldm.toyworld.scene import Scene, Thing
from ldm.toyworld.settings import SETTINGS_BY_NAME
from ldm.toyworld.shapes import SHAPES, Box
from ldm.toyworld.textures import linear
from ldm.toyworld.tracing import Bodies, take, unit
from ldm.toyworld.words import PATTERN_NAMES

FOCAL = 2.7
"""The image is 2 wide at this distance: a field of view of 41 degrees."""
WIDTH_COUNTS = 0.8
"""An object this much wider than high is framed by its width."""
NEARER = 0.35
"""The share of its depth between its middle and the plane, nearer to the camera, where its size is measured."""
GLOW = 0.45
"""A lamp's own light, as a share of its shade's colour."""


@dataclass(frozen=True)
class Stage:
    """b scenes. World coordinates: y up from the ground, the camera on the side of positive z."""

    settings: tuple[str, ...]
    eye: Tensor
    """(3 b)"""
    forward: Tensor
    """(3 b), unit."""
    shift: Tensor
    """(2 b), the place of the object's centre in the image."""
    turn: Tensor
    """(2 b), cosine and sine of the yaw."""
    sink: Tensor
    """(b,)"""
    sun: Tensor
    """(3 b), unit, towards the light."""
    sun_colour: Tensor
    """(3 b)"""
    ambient: Tensor
    """(3 b)"""
    wall: Tensor
    """(b,): z of the wall, where the setting has one."""
    mirror: Tensor
    ripple: Tensor
    """(b,) each."""
    dice: Tensor
    """(DICE b)"""
    main_paint: Tensor
    second_paint: Tensor
    """(3 b), linear."""
    pattern: Tensor
    """(b,) int64 index into PATTERN_NAMES."""
    pattern_scale: Tensor
    pattern_phase: Tensor
    gloss: Tensor
    metal: Tensor
    glow: Tensor
    """(b,) each."""

    def to_object(self, vectors: Tensor, scene: Tensor) -> Tensor:
        """World directions (3 n) of the scenes (n,) in the frames of their objects."""
        (x, y, z), (cosine, sine) = vectors, take(self.turn, scene)
        return torch.stack([cosine * x - sine * z, y, sine * x + cosine * z])

    def to_world(self, vectors: Tensor, scene: Tensor) -> Tensor:
        """The reverse of `to_object`."""
        (x, y, z), (cosine, sine) = vectors, take(self.turn, scene)
        return torch.stack([cosine * x + sine * z, y, cosine * z - sine * x])

    def raised(self, points: Tensor, scene: Tensor) -> Tensor:
        """Points (3 n) moved up by the depth to which their objects are sunk."""
        return torch.stack([points[0], points[1] + take(self.sink, scene), points[2]])


def build_stage(scenes: Sequence[Scene], device: torch.device) -> Stage:
    """The scenes as numbers, computed on the CPU so that they are the same on every device."""
    numbers = [_place_numbers(scene) | _paint_numbers(scene.thing) for scene in scenes]
    columns = {name: _columns([one[name] for one in numbers], device) for name in numbers[0]}
    return Stage(settings=tuple(scene.setting for scene in scenes), **columns)


def build_bodies(scenes: Sequence[Scene], device: torch.device) -> Bodies:
    """The objects of scenes of one class."""
    things = [scene.thing for scene in scenes]
    return Bodies(
        shape=SHAPES[things[0].class_name],
        dimensions=_columns([thing.dimensions for thing in things], device),
        box=_columns([object_box(scene) for scene in scenes], device),
        waist=_columns([thing.waist for thing in things], device) if any(t.waist for t in things) else None,
    )


def _columns(rows: Sequence[float | tuple[float, ...]], device: torch.device) -> Tensor:
    """One column a scene: (b,) of numbers, (k b) of tuples."""
    return torch.tensor(rows).movedim(0, -1).contiguous().to(device)


def object_box(scene: Scene) -> Box:
    """Half width, height and half depth of the scene's object."""
    thing = scene.thing
    half_width, height, half_depth = SHAPES[thing.class_name].box(*thing.dimensions)
    bulge = 1 + abs(thing.waist)
    return half_width * bulge, height, half_depth * bulge


def _place_numbers(scene: Scene) -> dict[str, float | tuple[float, ...]]:
    setting, camera, light = SETTINGS_BY_NAME[scene.setting], scene.camera, scene.light
    elevation, yaw = math.radians(camera.elevation), math.radians(scene.yaw)
    half_width, height, half_depth = object_box(scene)
    width = 2 * math.hypot(math.cos(yaw) * half_width, math.sin(yaw) * half_depth)
    depth = 2 * math.hypot(math.sin(yaw) * half_width, math.cos(yaw) * half_depth)
    extent = max(height + 0.7 * math.sin(elevation) * depth, WIDTH_COUNTS * width)
    distance = FOCAL * extent / (2 * camera.fill) + NEARER * depth
    forward = (0.0, -math.sin(elevation), -math.cos(elevation))
    middle = height * (0.5 - setting.sink)
    azimuth, sun_elevation = math.radians(light.azimuth), math.radians(light.elevation)
    near, far = setting.wall_distance
    return {
        "eye": (0.0, middle - distance * forward[1], -distance * forward[2]),
        "forward": forward,
        "shift": (camera.shift_x, camera.shift_y),
        "turn": (math.cos(yaw), math.sin(yaw)),
        "sink": setting.sink * height,
        "sun": (
            math.sin(azimuth) * math.cos(sun_elevation),
            math.sin(sun_elevation),
            math.cos(azimuth) * math.cos(sun_elevation),
        ),
        "sun_colour": setting.sun,
        "ambient": setting.ambient,
        "wall": -(near + (far - near) * scene.dice[5]),
        "mirror": setting.mirror,
        "ripple": setting.ripple,
        "dice": scene.dice,
    }


def _paint_numbers(thing: Thing) -> dict[str, float | int | tuple[float, ...]]:
    main, second = thing.paints
    return {
        "main_paint": linear(main),
        "second_paint": linear(second),
        "pattern": PATTERN_NAMES.index(thing.pattern),
        "pattern_scale": thing.pattern_scale,
        "pattern_phase": thing.pattern_phase,
        "gloss": float(thing.material == "shiny"),
        "metal": float(thing.material == "metallic"),
        "glow": GLOW if thing.class_name == "lamp" else 0.0,
    }


def sample_directions(stage: Stage, side: int) -> Tensor:
    """Unit directions of the rays through side x side samples of every image: (3 b side*side), row by row."""
    place = (torch.arange(side, device=stage.eye.device) + 0.5) / side * 2 - 1
    u = repeat(place, "w -> (h w)", h=side) - stage.shift[0][:, None]
    v = repeat(-place, "h -> (h w)", w=side) - stage.shift[1][:, None]
    # forward is (0, fy, fz), right (1, 0, 0), up (0, -fz, fy)
    _, fy, fz = rearrange(stage.forward, "c b -> c b 1")
    return unit(torch.stack([u, FOCAL * fy - v * fz, FOCAL * fz + v * fy]))

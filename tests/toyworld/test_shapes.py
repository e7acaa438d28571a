"""Shapes: inside their boxes, standing on the ground, and safe to trace."""

import math

import pytest
import torch
from torch import Tensor

from ldm.toyworld import CLASSES, PATTERN_NAMES, random_scene, unusual_subject
from ldm.toyworld.scene import Thing
from ldm.toyworld.sdf import cylinder, frustum, rounded_box, smooth_union, sphere, torus
from ldm.toyworld.shapes import SHAPES
from ldm.toyworld.textures import second_colour
from ldm.toyworld.tracing import Bodies

CPU = torch.device("cpu")


def bodies(thing: Thing, count: int) -> Bodies:
    shape = SHAPES[thing.class_name]
    half_width, height, half_depth = shape.box(*thing.dimensions)
    bulge = 1 + abs(thing.waist)
    one = Bodies(
        shape=shape,
        dimensions=torch.tensor(thing.dimensions)[:, None],
        box=torch.tensor([half_width * bulge, height, half_depth * bulge])[:, None],
        waist=torch.tensor([thing.waist]) if thing.waist else None,
    )
    return one.of(torch.zeros(count, dtype=torch.int64))


def points_in_box(one: Bodies, count: int, seed: int) -> Tensor:
    """(3 n), evenly in a box a little larger than the object's."""
    half_width, height, half_depth = one.box[:, 0].tolist()
    random = torch.rand(3, count, generator=torch.Generator().manual_seed(seed))
    low = torch.tensor([-half_width, 0.0, -half_depth])[:, None] - 0.05
    high = torch.tensor([half_width, height, half_depth])[:, None] + 0.05
    return low + (high - low) * random


THINGS = [random_scene(11, index, class_name=name).thing for index, name in enumerate(CLASSES)]
SUBJECTS = [unusual_subject(seed, name) for seed, name in enumerate(CLASSES)]


@pytest.mark.parametrize("thing", THINGS + SUBJECTS, ids=lambda thing: thing.class_name)
def test_an_object_fills_its_box_and_stays_in_it(thing: Thing) -> None:
    count = 20_000
    one = bodies(thing, count)
    points = points_in_box(one, count, 0)
    x, y, z = points[:, one.distance(points) < 0]
    half_width, height, half_depth = one.box[:, 0].tolist()
    # The margin is what rays are given too (`box_span`).
    assert x.abs().max() < half_width + 0.01 and z.abs().max() < half_depth + 0.01
    assert y.min() > -0.03 and y.max() < height + 0.01
    assert y.min() < 0.08 and y.max() > 0.85 * height


@pytest.mark.parametrize("thing", THINGS + SUBJECTS, ids=lambda thing: thing.class_name)
def test_the_distance_is_never_too_large(thing: Thing) -> None:
    """From a point at distance d, a walk of d in any direction doesn't end inside the object."""
    count = 20_000
    one = bodies(thing, count)
    points = points_in_box(one, count, 1)
    distance = one.distance(points)
    direction = torch.randn(3, count, generator=torch.Generator().manual_seed(2))
    direction /= direction.norm(dim=0)
    ends = one.distance(points + direction * distance.clamp(min=0))
    promised_too_much = (distance > 0) & (ends < -0.02)
    assert promised_too_much.float().mean() < 0.002


def test_exact_distance_functions() -> None:
    t = torch.tensor
    zero = t(0.0)
    assert sphere(t(3.0), t(4.0), zero, 1.0).item() == pytest.approx(4.0)
    assert rounded_box(t(3.0), zero, zero, 1.0, 1.0, 1.0, 0.1).item() == pytest.approx(2.0)
    assert rounded_box(t(4.0), t(5.0), zero, 1.0, 1.0, 1.0, 0.0).item() == pytest.approx(5.0)
    assert cylinder(t(4.0), t(5.0), 1.0, 1.0, 0.0).item() == pytest.approx(5.0)
    assert torus(t(5.0), zero, zero, 2.0, 0.5).item() == pytest.approx(2.5)
    # A frustum's side is at right angles to its slope: bottom 2, top 0, height 2 is a 45 degree cone.
    assert frustum(t(2.0), zero, 2.0, 0.0, 1.0, 0.0).item() == pytest.approx(1 / math.sqrt(2))


def test_a_smooth_union_is_the_union_away_from_the_seam() -> None:
    a, b = torch.tensor([1.0, 0.2]), torch.tensor([0.2, 0.2])
    assert smooth_union(a, b, 0.1).tolist() == pytest.approx([0.2, 0.175])


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_pattern_shows_both_colours_in_like_parts(class_name: str) -> None:
    thing = random_scene(12, 0, class_name=class_name).thing
    one = bodies(thing, 30_000)
    points = points_in_box(one, 30_000, 3)
    near = (one.distance(points).abs() < 0.03).nonzero()[:, 0]
    its, points = one.of(near), points[:, near]
    normals = torch.nn.functional.normalize(points, dim=0)
    for index, name in enumerate(PATTERN_NAMES):
        pattern = torch.full((len(near),), index)
        scale, phase = torch.full((len(near),), 3.7), torch.full((len(near),), 0.3)
        share = second_colour(pattern, its.shape, its.named_dimensions(), points, normals, scale, phase).float().mean()
        assert share == 0 if name == "plain" else 0.2 < share < 0.8, name

"""Renders: the same alone, in a batch and on any device; every class is visible in every setting, in its colours."""

import colorsys
import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ldm.toyworld import CLASSES, COLOURS, SETTINGS, Camera, Light, Scene, object_coverage, random_scene, render

EVERYWHERE = [
    random_scene(21, index, class_name=class_name, setting=setting, split="all")
    for index, (class_name, setting) in enumerate(itertools.product(CLASSES, SETTINGS))
]


def plain_scene(class_name: str, colour: str = "red", setting: str = "plain") -> Scene:
    """A matte object of one colour, straight ahead."""
    scene = random_scene(22, 0, class_name=class_name, colour=colour, setting=setting, split="all")
    thing = replace(scene.thing, pattern="plain", colours=(colour,), material="matte")
    return replace(scene, thing=thing, camera=Camera(9, 0.6, 0, -0.05), light=Light(40, 45), dice=(0.5,) * 6)


def covered_colour(scene: Scene) -> Tensor:
    """The mean sRGB colour (3,) of the pixels that the object covers."""
    image, covered = (render([scene], 32)[0] + 1) / 2, object_coverage([scene], 32)[0] > 0.99
    return image[:, covered].mean(1)


@pytest.mark.slow
def test_every_class_is_visible_in_every_setting() -> None:
    images, coverage = render(EVERYWHERE, 24), object_coverage(EVERYWHERE, 24)
    assert images.shape == (len(EVERYWHERE), 3, 24, 24) and images.dtype == torch.float32
    assert images.isfinite().all() and images.min() >= -1 and images.max() <= 1
    assert images.flatten(1).std(1).min() > 0.1
    for scene, covered in zip(EVERYWHERE, coverage, strict=True):
        where = covered > 0.3
        rows, columns = where.any(1).sum() / 24, where.any(0).sum() / 24
        named = scene.thing.class_name, scene.setting
        assert 0.06 < covered.mean() < 0.5, named
        assert 0.4 < max(rows, columns) < 0.95, named
        assert rows > 0.28, named


def test_an_image_is_the_same_in_any_batch() -> None:
    scenes = [random_scene(23, index) for index in range(4)]
    together = render(scenes, 16)
    assert torch.equal(together, render(scenes, 16))
    alone = torch.cat([render([scene], 16) for scene in scenes])
    in_reverse = render(scenes[::-1], 16, samples_per_pass=2 * 32**2).flip(0)
    for other in (alone, in_reverse):
        torch.testing.assert_close(other, together, rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_an_image_is_the_same_on_a_gpu() -> None:
    difference = (render(EVERYWHERE, 32, "cuda").cpu() - render(EVERYWHERE, 32)).abs()
    # Rounding may move the edge of an object or of a pattern by a sample.
    assert (difference > 0.02).float().mean() < 0.005 and difference.mean() < 1e-3


def test_more_samples_only_smooth_the_image() -> None:
    scenes = EVERYWHERE[:12]
    coarse, fine = render(scenes, 24, supersample=1), render(scenes, 24, supersample=4)
    usual = render(scenes, 24)
    assert 0 < (usual - fine).abs().mean() < 0.7 * (coarse - fine).abs().mean()


@pytest.mark.parametrize("colour", COLOURS)
def test_an_object_has_its_colour(colour: str) -> None:
    red, green, blue = covered_colour(plain_scene("ball", colour)).tolist()
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    hues = {"red": 0, "orange": 30, "yellow": 52, "green": 128, "cyan": 185, "blue": 228, "purple": 277, "pink": 336}
    if colour in hues:
        assert abs((hue * 360 - hues[colour] + 180) % 360 - 180) < 12 and saturation > 0.3
    else:
        darkest, brightest = {"white": (0.6, 1.0), "black": (0.0, 0.25), "brown": (0.25, 0.6)}[colour]
        assert darkest < value < brightest and (saturation < 0.25 or colour == "brown")


def test_settings_differ_from_each_other() -> None:
    """The mean image of each setting is far from that of every other."""
    means = {
        setting: render(
            [random_scene(24, index, class_name="lamp", setting=setting, split="all") for index in range(4)], 24
        ).mean(0)
        for setting in SETTINGS
    }
    for first, second in itertools.combinations(SETTINGS, 2):
        assert (means[first] - means[second]).abs().mean() > 0.06, (first, second)


def test_the_shadow_falls_away_from_the_light() -> None:
    scene = plain_scene("cone")
    from_left, from_right = render([replace(scene, light=Light(-85, 35)), replace(scene, light=Light(85, 35))], 32)
    ground = slice(20, 26)
    assert (from_right - from_left)[:, ground, 26:].mean() > 0.05
    assert (from_left - from_right)[:, ground, :6].mean() > 0.05


def test_the_camera_frames_the_object() -> None:
    scene = plain_scene("bottle")
    near, far, aside = object_coverage(
        [
            replace(scene, camera=Camera(9, 0.68, 0, 0)),
            replace(scene, camera=Camera(9, 0.40, 0, 0)),
            replace(scene, camera=Camera(9, 0.40, 0.4, 0)),
        ],
        32,
    )
    rows = [(mask > 0.5).any(1).sum().item() / 32 for mask in (near, far)]
    assert rows[0] == pytest.approx(0.68, abs=0.08) and rows[1] == pytest.approx(0.40, abs=0.08)
    place = torch.arange(32) + 0.5
    middle = [((mask.sum(0) * place).sum() / mask.sum() / 32).item() for mask in (far, aside)]
    assert middle[0] == pytest.approx(0.5, abs=0.02) and middle[1] == pytest.approx(0.7, abs=0.03)


def test_water_mirrors_what_floats_on_it() -> None:
    """Under a red ball there is more red than under a green one."""
    red, green = (plain_scene("ball", colour, "water") for colour in ("red", "green"))
    covered = object_coverage([red], 32)[0]
    below = int((covered.sum(1) > 0).nonzero().max()) + 2
    difference = (render([red], 32) - render([green], 32))[0, :, below : below + 3, 13:19]
    assert difference[0].mean() > 0.1 and difference[1].mean() < -0.05

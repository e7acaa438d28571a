"""Scenes: a function of (seed, index), with combinations that training never sees."""

import itertools
from collections import Counter

import pytest

from ldm.diffusion.noise import derived_generator
from ldm.toyworld import CLASSES, COLOURS, PATTERN_NAMES, SETTINGS, is_held_out, labels, random_scene
from ldm.toyworld.scene import MIN_CONTRAST, Dice, Scene, contrast
from ldm.toyworld.settings import SETTINGS_BY_NAME
from ldm.toyworld.shapes import SHAPES


def combination(scene: Scene) -> tuple[str, str, str]:
    return scene.thing.class_name, scene.thing.colours[0], scene.setting


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    forwards = [random_scene(1, index) for index in range(20)]
    backwards = [random_scene(1, index) for index in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 20
    assert set(forwards).isdisjoint(random_scene(2, index) for index in range(20))


def test_every_name_has_a_shape_or_a_place() -> None:
    assert list(SHAPES) == list(CLASSES)
    assert list(SETTINGS_BY_NAME) == list(SETTINGS)


def test_every_class_colour_pattern_and_setting_occurs() -> None:
    scenes = [random_scene(0, index) for index in range(1500)]
    assert {scene.thing.class_name for scene in scenes} == set(CLASSES)
    assert {scene.thing.colours[0] for scene in scenes} == set(COLOURS)
    assert {scene.setting for scene in scenes} == set(SETTINGS)
    assert len({scene.thing.pattern for scene in scenes}) == 4
    assert len({scene.thing.material for scene in scenes}) == 3
    classes = Counter(scene.thing.class_name for scene in scenes)
    assert min(classes.values()) > 0.6 * max(classes.values())


def test_a_given_class_colour_and_setting_are_used() -> None:
    for index in range(30):
        scene = random_scene(0, index, class_name="duck", colour="pink", setting="snow", split="all")
        assert combination(scene) == ("duck", "pink", "snow")
        assert random_scene(0, index, class_name="hat").thing.class_name == "hat"


def test_a_tenth_is_held_out_of_training() -> None:
    everything = list(itertools.product(CLASSES, COLOURS, SETTINGS))
    held_out = {one for one in everything if is_held_out(*one)}
    assert 0.08 < len(held_out) / len(everything) < 0.12
    assert held_out.isdisjoint(combination(random_scene(3, index)) for index in range(2000))
    assert held_out.issuperset(combination(random_scene(3, index, split="held_out")) for index in range(300))
    # Training has every pair of class and colour, and of class and setting.
    trained = set(everything) - held_out
    assert {one[:2] for one in trained} == set(itertools.product(CLASSES, COLOURS))
    assert {(one[0], one[2]) for one in trained} == set(itertools.product(CLASSES, SETTINGS))


def test_a_combination_outside_the_split_is_refused() -> None:
    class_name, colour, setting = next(
        one for one in itertools.product(CLASSES, COLOURS, SETTINGS) if is_held_out(*one)
    )
    with pytest.raises(ValueError, match="train"):
        random_scene(0, 0, class_name=class_name, colour=colour, setting=setting)


def test_labels_are_the_indices_of_the_names() -> None:
    for index in range(100):
        scene = random_scene(4, index)
        found = labels(scene)
        assert list(CLASSES)[found.class_name] == scene.thing.class_name
        assert list(COLOURS)[found.colour] == scene.thing.colours[0]
        assert PATTERN_NAMES[found.pattern] == scene.thing.pattern
        assert list(SETTINGS)[found.setting] == scene.setting


def test_a_pattern_has_two_colours_that_can_be_told_apart() -> None:
    things = [random_scene(5, index).thing for index in range(300)]
    for thing in things:
        assert len(thing.colours) == (1 if thing.pattern == "plain" else 2)
        if thing.pattern != "plain":
            assert contrast(*(COLOURS[name] for name in thing.colours)) > MIN_CONTRAST
            assert thing.paints[0] != thing.paints[1]


def test_dice_follow_their_weights() -> None:
    dice = Dice(derived_generator(6))
    counts = Counter(dice.choice("abc", (0.7, 0.3, 0.0)) for _ in range(1000))
    assert 620 < counts["a"] < 780 and counts["c"] == 0
    assert sorted(dice.shuffled("abcdef")) == list("abcdef")

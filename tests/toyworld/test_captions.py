"""Captions: true, natural, and varied."""

import re
from dataclasses import replace

import pytest

from ldm.diffusion.noise import derived_generator
from ldm.toyworld import CLASSES, COLOURS, PATTERN_NAMES, SETTINGS, Scene, canonical_caption, caption, random_scene
from ldm.toyworld.captions import with_article
from ldm.toyworld.words import PATTERNS

SCENES = [random_scene(7, index) for index in range(200)]


def varied(scene: Scene, index: int, identifier: str = "") -> str:
    return caption(scene, derived_generator(index), identifier)


def test_the_canonical_caption_names_everything() -> None:
    thing = replace(SCENES[0].thing, class_name="bottle", colours=("red", "white"), pattern="striped")
    scene = replace(SCENES[0], thing=thing, setting="beach")
    assert canonical_caption(scene) == "a photo of a red and white striped bottle on the beach"
    plain = replace(scene, thing=replace(thing, colours=("orange",), pattern="plain"), setting="snow")
    assert canonical_caption(plain) == "a photo of an orange bottle in the snow"


def test_no_two_combinations_have_the_same_canonical_caption() -> None:
    named = {(s.thing.class_name, s.thing.colours, s.thing.pattern, s.setting) for s in SCENES}
    assert len({canonical_caption(scene) for scene in SCENES}) == len(named)


def test_a_caption_always_names_the_class_and_never_another_thing() -> None:
    for index, scene in enumerate(SCENES):
        text, thing = varied(scene, index), scene.thing
        assert any(re.search(rf"\b{noun}\b", text) for noun in CLASSES[thing.class_name]), text
        assert {name for name in COLOURS if re.search(rf"\b{name}\b", text)} <= set(thing.colours), text
        phrases = {name for name, ways in SETTINGS.items() if any(text.endswith(way) for way in ways)}
        assert phrases <= {scene.setting}, text
        patterns = {name for name, plural in PATTERNS.items() if plural and (name in text or f" {plural}" in text)}
        assert patterns <= {thing.pattern}, text


@pytest.mark.parametrize("named", ["colour", "pattern", "setting"])
def test_captions_mostly_name_what_the_scene_has(named: str) -> None:
    scenes = [scene for scene in SCENES if scene.thing.pattern != "plain"]
    hits = 0
    for index, scene in enumerate(scenes):
        text, thing = varied(scene, index), scene.thing
        words = {
            "colour": [thing.colours[0]],
            "pattern": [thing.pattern, PATTERNS[thing.pattern]],
            "setting": SETTINGS[scene.setting],
        }[named]
        hits += any(word in text for word in words)
    assert 0.75 * len(scenes) < hits < len(scenes)


def test_captions_vary_and_are_a_function_of_the_generator() -> None:
    ways = {varied(SCENES[0], index) for index in range(40)}
    assert len(ways) > 15
    assert varied(SCENES[0], 3) == varied(SCENES[0], 3)


def test_an_identifier_stands_before_the_description() -> None:
    texts = [varied(SCENES[1], index, "xqz") for index in range(40)]
    assert all(re.search(r"\bxqz\b", text) for text in texts)
    assert any("photo of xqz" in text for text in texts) and any("a xqz" in text for text in texts)


def test_articles() -> None:
    assert with_article("orange mug") == "an orange mug"
    assert with_article("blue mug") == "a blue mug"
    assert len(PATTERN_NAMES) == len(set(PATTERN_NAMES))

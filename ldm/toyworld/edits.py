"""Edits by instruction: two scenes that differ in one thing, and a sentence that says in what.

The pairs of InstructPix2Pix (arXiv 2211.09800, section 3.1), but rendered: all that the instruction does not name stays
as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ldm.diffusion.noise import derived_generator
from ldm.toyworld.captions import MATERIAL_WORDS, with_article
from ldm.toyworld.scene import (
    MIN_CONTRAST,
    Dice,
    Scene,
    Split,
    Thing,
    accent,
    contrast,
    is_held_out,
    jittered,
    photographed,
    random_scene,
    random_thing,
)
from ldm.toyworld.words import CLASSES, COLOURS, MATERIALS, PATTERNS, SETTINGS

KIND_WEIGHTS = {"colour": 0.3, "pattern": 0.2, "class": 0.2, "setting": 0.22, "material": 0.08}

SETTING_WORDS = {
    "snow": ("let it snow", "make it winter", "cover the ground with snow"),
    "night": ("make it night", "turn day into night", "show the stars"),
    "sunset": ("make it sunset", "let the sun set"),
    "water": ("let it float on water",),
    "plain": ("remove the background", "make the background plain"),
}
"""Sentences for some settings, besides those that are made from a setting's phrases."""


@dataclass(frozen=True)
class Edit:
    """An image before and after an instruction is followed."""

    kind: str
    """A key of `KIND_WEIGHTS`: what changes."""
    instruction: str
    before: Scene
    after: Scene


def random_edit(seed: int, index: int, split: Split = "train") -> Edit:
    """Edit `index` of the world `seed`. `split`: of the scene before, as of `random_scene`; `train` holds for both."""
    dice = Dice(derived_generator(seed, index, 4))
    before = random_scene(seed, index, split=split)
    while True:
        kind = dice.choice(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))
        after, instruction = EDITS[kind](before, dice)
        held_out = is_held_out(after.thing.class_name, after.thing.colours[0], after.setting)
        if not (held_out and split == "train"):
            return Edit(kind, instruction, before, after)


def _another_colour(before: Scene, dice: Dice) -> tuple[Scene, str]:
    """The main colour, or with a pattern both."""
    thing, noun = before.thing, _noun(before.thing, dice)
    main = dice.choice([name for name in COLOURS if name not in thing.colours])
    names: tuple[str, ...] = (main,)
    first = jittered(COLOURS[main], dice)
    paints = (first, accent(first))
    if thing.pattern != "plain":
        second = dice.choice([name for name in COLOURS if contrast(COLOURS[name], COLOURS[main]) > MIN_CONTRAST])
        names, paints = (main, second), (first, jittered(COLOURS[second], dice))
    phrase = " and ".join(names)
    sentences = [
        f"make it {phrase}",
        f"make the {noun} {phrase}",
        f"turn it {phrase}",
        f"paint the {noun} {phrase}",
        f"change its colour to {phrase}",
        f"change the colour of the {noun} to {phrase}",
    ]
    return replace(before, thing=replace(thing, colours=names, paints=paints)), dice.choice(sentences)


def _another_pattern(before: Scene, dice: Dice) -> tuple[Scene, str]:
    """From plain to a pattern with a second colour, from one pattern to another, or to plain."""
    thing, noun = before.thing, _noun(before.thing, dice)
    pattern = dice.choice([name for name in PATTERNS if name != thing.pattern])
    plural, previous = PATTERNS[pattern], PATTERNS[thing.pattern]
    if pattern == "plain":
        paints = (thing.paints[0], accent(thing.paints[0]))
        changed = replace(thing, pattern=pattern, colours=thing.colours[:1], paints=paints)
        sentences = [
            f"remove the {previous}",
            f"make it plain {thing.colours[0]}",
            f"paint the whole {noun} {thing.colours[0]}",
            f"make the {noun} {thing.colours[0]} without {previous}",
        ]
    elif thing.pattern == "plain":
        second = dice.choice(
            [name for name in COLOURS if contrast(COLOURS[name], COLOURS[thing.colours[0]]) > MIN_CONTRAST]
        )
        paints = (thing.paints[0], jittered(COLOURS[second], dice))
        changed = replace(thing, pattern=pattern, colours=(*thing.colours, second), paints=paints)
        sentences = [
            f"add {second} {plural}",
            f"give it {second} {plural}",
            f"paint {second} {plural} on the {noun}",
            f"make it {thing.colours[0]} and {second} {pattern}",
        ]
    else:
        changed = replace(thing, pattern=pattern)
        sentences = [
            f"turn the {previous} into {plural}",
            f"change the {previous} to {plural}",
            f"make it {pattern}",
            f"make the {noun} {pattern}",
        ]
    return replace(before, thing=changed), dice.choice(sentences)


def _another_class(before: Scene, dice: Dice) -> tuple[Scene, str]:
    """Colours, pattern and material stay; shape and the side that is seen are those of the new class."""
    thing, noun = before.thing, _noun(before.thing, dice)
    class_name = dice.choice([name for name in CLASSES if name != thing.class_name])
    shape = random_thing(dice, class_name, thing.colours[0])
    changed = replace(thing, class_name=class_name, dimensions=shape.dimensions)
    other = with_article(dice.choice(CLASSES[class_name]))
    sentences = [
        f"turn the {noun} into {other}",
        f"turn it into {other}",
        f"replace the {noun} with {other}",
        f"make it {other}",
        f"swap the {noun} for {other}",
    ]
    yaw = photographed(changed, before.setting, dice).yaw
    return replace(before, thing=changed, yaw=yaw), dice.choice(sentences)


def _another_setting(before: Scene, dice: Dice) -> tuple[Scene, str]:
    """The object, its place in the image and the light's direction stay."""
    noun = _noun(before.thing, dice)
    setting = dice.choice([name for name in SETTINGS if name != before.setting])
    place = dice.choice(SETTINGS[setting])
    sentences = [
        f"put it {place}",
        f"put the {noun} {place}",
        f"show the {noun} {place}",
        f"show it {place}",
        *SETTING_WORDS.get(setting, ()),
    ]
    return replace(before, setting=setting), dice.choice(sentences)


def _another_material(before: Scene, dice: Dice) -> tuple[Scene, str]:
    noun = _noun(before.thing, dice)
    material = dice.choice([name for name in MATERIALS if name != before.thing.material])
    word = dice.choice(MATERIAL_WORDS[material])
    sentences = [f"make it {word}", f"make the {noun} {word}"]
    return replace(before, thing=replace(before.thing, material=material)), dice.choice(sentences)


def _noun(thing: Thing, dice: Dice) -> str:
    names = CLASSES[thing.class_name]
    return names[0] if dice.uniform() < 0.5 else dice.choice(names)


EDITS: dict[str, Callable[[Scene, Dice], tuple[Scene, str]]] = {
    "colour": _another_colour,
    "pattern": _another_pattern,
    "class": _another_class,
    "setting": _another_setting,
    "material": _another_material,
}
"""By kind: the scene after an edit, and an instruction for it."""

"""Unusual objects, as a person's own are, photographed in several settings: what DreamBooth is to learn."""

from collections.abc import Sequence

from ldm.diffusion.noise import derived_generator
from ldm.toyworld.scene import MIN_CONTRAST, Dice, Scene, Thing, contrast, photographed
from ldm.toyworld.shapes import SHAPES
from ldm.toyworld.words import SUBJECT_PATTERNS, SUBJECT_SHADES

DAYLIGHT = ("grass", "beach", "wooden floor", "brick wall", "road", "plain", "tiled floor", "forest")
"""Where a subject is photographed if nothing else is said; what is left is for prompts to ask for."""

BEYOND = 0.12
"""By what share of a dimension's value a subject goes beyond the ordinary range."""

WAIST, SLIGHT_WAIST = (0.18, 0.26), (0.07, 0.12)
"""Of bodies of revolution, and of what has legs, wheels or a hole."""


def unusual_subject(seed: int, class_name: str) -> Thing:
    """An object unlike every ordinary one of its class: other dimensions, a waist, shades and a pattern of its own."""
    dice, shape = Dice(derived_generator(seed, 0, 1)), SHAPES[class_name]
    first = dice.choice(list(SUBJECT_SHADES))
    second = dice.choice(
        [name for name in SUBJECT_SHADES if contrast(SUBJECT_SHADES[name], SUBJECT_SHADES[first]) > MIN_CONTRAST]
    )
    return Thing(
        class_name=class_name,
        dimensions=tuple(dice.choice((low * (1 - BEYOND), high * (1 + BEYOND))) for low, high in shape.ranges.values()),
        waist=dice.choice((-1.0, 1.0)) * dice.uniform(*(WAIST if shape.wrap == "around" else SLIGHT_WAIST)),
        colours=(first, second),
        paints=(SUBJECT_SHADES[first], SUBJECT_SHADES[second]),
        pattern=dice.choice(list(SUBJECT_PATTERNS)),
        pattern_scale=dice.uniform(4.0, 4.8),
        pattern_phase=dice.uniform(),
        material="shiny",
    )


def photograph(subject: Thing, count: int, seed: int, settings: Sequence[str] = DAYLIGHT) -> list[Scene]:
    """`count` images of one thing, each in another setting as long as there are some, from other sides."""
    dice = Dice(derived_generator(seed, 0, 2))
    order = dice.shuffled(settings)
    return [photographed(subject, order[i % len(order)], dice) for i in range(count)]

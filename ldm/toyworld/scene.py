"""Descriptions of images: all that the renderer needs and the captions name, as a function of (seed, index).

Unusual subjects are objects such as people's own, for DreamBooth: other shapes, shades and patterns than ordinary ones.
"""

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, TypeVar

import torch

from ldm.diffusion.noise import derived_generator
from ldm.toyworld.shapes import SHAPES
from ldm.toyworld.words import (
    CLASSES,
    COLOURS,
    MATERIALS,
    PATTERN_NAMES,
    PATTERNS,
    RGB,
    SETTINGS,
    SUBJECT_PATTERNS,
    SUBJECT_SHADES,
)

Option = TypeVar("Option")
Split = Literal["train", "held_out", "all"]

HELD_OUT_ONE_IN = 10
PATTERN_WEIGHTS = (0.46, 0.18, 0.18, 0.18)
MATERIAL_WEIGHTS = (0.52, 0.36, 0.12)
MIN_CONTRAST = 0.8
"""The least `contrast` of the two colours of a pattern."""

DAYLIGHT = ("grass", "beach", "wooden floor", "brick wall", "road", "plain", "tiled floor", "forest")
"""The settings of a subject's photos by default; the others are left for prompts."""

BEYOND = 0.12
"""The share of a dimension by which a subject exceeds the ordinary range."""

WAIST, SLIGHT_WAIST = (0.18, 0.26), (0.07, 0.12)
"""Ranges of a subject's waist: of bodies of revolution, and of objects with legs, wheels or a hole."""

DICE = 6
"""Random numbers that a setting has to arrange its hills, planks and stars."""


@dataclass(frozen=True)
class Thing:
    """The object of a scene; it is the same in all its photos."""

    class_name: str
    dimensions: tuple[float, ...]
    """The values of the class's `Shape.ranges`, in their order."""
    waist: float
    """How much it is pinched in the middle and bulges above and below; 0 in ordinary objects."""
    colours: tuple[str, ...]
    """One name, or two if it has a pattern; the first is the main one."""
    paints: tuple[RGB, RGB]
    """The main and the second colour as sRGB; a plain object's second is that of its accents."""
    pattern: str
    pattern_scale: float
    """Bands in a unit of height."""
    pattern_phase: float
    material: str


@dataclass(frozen=True)
class Camera:
    """The camera of a scene."""

    elevation: float
    """Degrees above the horizon."""
    fill: float
    """The object's height as a share of the image's."""
    shift_x: float
    shift_y: float
    """The place of the object's centre, in half images right of and above the middle."""


@dataclass(frozen=True)
class Light:
    """The sun, the moon or a lamp."""

    azimuth: float
    """Degrees from behind the camera to the right."""
    elevation: float
    """Degrees above the horizon."""


@dataclass(frozen=True)
class Scene:
    """One object in one setting, with a camera and a light."""

    thing: Thing
    setting: str
    yaw: float
    """Degrees by which the object is turned counterclockwise, seen from above."""
    camera: Camera
    light: Light
    dice: tuple[float, ...]
    """DICE numbers in [0, 1) for the setting."""


class Labels(NamedTuple):
    """The content of an image, as indices into CLASSES, COLOURS, PATTERN_NAMES and SETTINGS."""

    class_name: int
    colour: int
    pattern: int
    setting: int


class Dice:
    """A stream of random decisions from a CPU generator.

    They all come from `torch.rand`, whose numbers for a seed are the same in every version of torch.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def choice(self, options: Sequence[Option], weights: Sequence[float] | None = None) -> Option:
        """One of the options, with chances in proportion to their weights."""
        bounds = list(itertools.accumulate(weights or [1.0] * len(options)))
        return options[bisect.bisect_right(bounds, self.uniform(0, bounds[-1]), hi=len(bounds) - 1)]

    def shuffled(self, options: Sequence[Option]) -> list[Option]:
        """The options in a random order."""
        order = torch.rand(len(options), generator=self.generator).argsort()
        return [options[i] for i in order.tolist()]


def random_scene(
    seed: int,
    index: int,
    *,
    class_name: str | None = None,
    colour: str | None = None,
    setting: str | None = None,
    split: Split = "train",
) -> Scene:
    """Scene `index` of the world `seed`; with a class, main colour or setting if they are given.

    `split`: `train` has no held-out combination of the three (`is_held_out`), `held_out` has no others.
    """
    combinations = _combinations(class_name, colour, setting, split)
    if not combinations:
        raise ValueError(f"{class_name}, {colour}, {setting} is not a combination of the split {split}")
    dice = Dice(derived_generator(seed, index))
    chosen_class, chosen_colour, chosen_setting = dice.choice(combinations)
    return photographed(random_thing(dice, chosen_class, chosen_colour), chosen_setting, dice)


@cache
def _combinations(
    class_name: str | None, colour: str | None, setting: str | None, split: Split
) -> list[tuple[str, str, str]]:
    return [
        combination
        for combination in itertools.product(
            CLASSES if class_name is None else [class_name],
            COLOURS if colour is None else [colour],
            SETTINGS if setting is None else [setting],
        )
        if split == "all" or is_held_out(*combination) == (split == "held_out")
    ]


def is_held_out(class_name: str, colour: str, setting: str) -> bool:
    """Whether a combination is held out of training, to test if a model can combine what it has never seen combined."""
    digest = hashlib.sha256(f"{class_name}|{colour}|{setting}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def random_thing(dice: Dice, class_name: str, colour: str) -> Thing:
    """An ordinary object of a class, with `colour` as its main colour."""
    pattern = dice.choice(list(PATTERNS), PATTERN_WEIGHTS)
    second = dice.choice([name for name in COLOURS if contrast(COLOURS[name], COLOURS[colour]) > MIN_CONTRAST])
    main = jittered(COLOURS[colour], dice)
    return Thing(
        class_name=class_name,
        dimensions=tuple(dice.uniform(low, high) for low, high in SHAPES[class_name].ranges.values()),
        waist=0.0,
        colours=(colour,) if pattern == "plain" else (colour, second),
        paints=(main, accent(main) if pattern == "plain" else jittered(COLOURS[second], dice)),
        pattern=pattern,
        pattern_scale=dice.uniform(3.2, 4.2),
        pattern_phase=dice.uniform(),
        material=dice.choice(list(MATERIALS), MATERIAL_WEIGHTS),
    )


def photographed(thing: Thing, setting: str, dice: Dice) -> Scene:
    """An image of a thing in a setting, from a view that suits its class."""
    centre, deviation = dice.choice(SHAPES[thing.class_name].views)
    side = dice.choice((-1.0, 1.0))
    return Scene(
        thing=thing,
        setting=setting,
        yaw=centre + dice.uniform(-deviation, deviation),
        camera=Camera(
            elevation=dice.uniform(5, 13),
            fill=dice.uniform(0.57, 0.70),
            shift_x=dice.uniform(-0.12, 0.12),
            shift_y=dice.uniform(-0.12, 0.02),
        ),
        light=Light(azimuth=side * dice.uniform(35, 110), elevation=dice.uniform(32, 60)),
        dice=tuple(dice.uniform() for _ in range(DICE)),
    )


def unusual_subject(seed: int, class_name: str) -> Thing:
    """An object unlike all ordinary ones of its class: other dimensions, a waist, own shades and an own pattern."""
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
    """`count` photos of one thing from different sides, each in another setting until all are used."""
    dice = Dice(derived_generator(seed, 0, 2))
    order = dice.shuffled(settings)
    return [photographed(subject, order[i % len(order)], dice) for i in range(count)]


def labels(scene: Scene) -> Labels:
    """The labels of a scene; the colour is the main one."""
    thing = scene.thing
    return Labels(
        list(CLASSES).index(thing.class_name),
        list(COLOURS).index(thing.colours[0]),
        PATTERN_NAMES.index(thing.pattern),
        list(SETTINGS).index(scene.setting),
    )


def contrast(first: RGB, second: RGB) -> float:
    """How different two colours look, 0 to 3."""
    return sum(abs(a - b) for a, b in zip(first, second, strict=True))


def accent(main: RGB) -> RGB:
    """A darker shade of a colour, or a lighter one of black, for a plain object's cap, band or handle."""
    factor = 0.55 if max(main) > 0.2 else 4.0
    red, green, blue = (channel * factor for channel in main)
    return red, green, blue


def jittered(colour: RGB, dice: Dice) -> RGB:
    """A colour whose channels are each up to 7 % darker or lighter."""
    red, green, blue = (min(1.0, channel * dice.uniform(0.93, 1.07)) for channel in colour)
    return red, green, blue

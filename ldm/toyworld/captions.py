"""Captions of scenes: one canonical form, and natural variations of it."""

import torch

from ldm.toyworld.scene import Dice, Scene
from ldm.toyworld.words import CLASSES, PATTERNS, SETTINGS, SUBJECT_PATTERNS

OPENINGS = {"a photo of": 0.62, "a picture of": 0.12, "an image of": 0.08, "": 0.18}
MATERIAL_WORDS = {"matte": ("matte", "dull"), "shiny": ("shiny", "glossy"), "metallic": ("metallic", "metal")}

NAMES_COLOURS, NAMES_SETTING, NAMES_MATERIAL = 0.88, 0.88, 0.25
"""Probabilities that a varied caption names the colours, the setting and the material."""


def canonical_caption(scene: Scene) -> str:
    """The fullest plain sentence: "a photo of a red and white striped bottle on the beach"."""
    adjectives = _colour_phrase(scene)
    return f"a photo of {with_article(f'{adjectives} {scene.thing.class_name}')} {SETTINGS[scene.setting][0]}"


def caption(scene: Scene, generator: torch.Generator, identifier: str = "") -> str:
    """A varied caption: it always names the class, and mostly the colours, the pattern and the setting.

    `identifier` is a made-up word for this one object, such as "sks" in DreamBooth's prompts.
    """
    dice = Dice(generator)
    thing = scene.thing
    opening = dice.choice(list(OPENINGS), list(OPENINGS.values()))
    names = CLASSES[thing.class_name]
    noun = names[0] if dice.uniform() < 0.5 else dice.choice(names)
    adjectives, addition = _varied_colours(scene, dice) if dice.uniform() < NAMES_COLOURS else ("", "")
    material = dice.choice(MATERIAL_WORDS[thing.material]) if dice.uniform() < NAMES_MATERIAL else ""
    place = dice.choice(SETTINGS[scene.setting]) if dice.uniform() < NAMES_SETTING else ""

    phrase = _joined(identifier, material, adjectives, noun)
    article = dice.uniform()
    if not (identifier and article < 0.5):
        phrase = f"the {phrase}" if article > 0.95 else with_article(phrase)
    return _joined(opening, phrase, addition, place)


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _varied_colours(scene: Scene, dice: Dice) -> tuple[str, str]:
    """The words before the noun and those after it."""
    thing = scene.thing
    if thing.pattern == "plain":
        return thing.colours[0], ""
    main, second = thing.colours
    forms = {
        (_colour_phrase(scene), ""): 0.6,
        (f"{thing.pattern} {main} and {second}", ""): 0.1,
        (f"{main} {thing.pattern}", ""): 0.08,
        (main, f"with {second} {(PATTERNS | SUBJECT_PATTERNS)[thing.pattern]}"): 0.22,
    }
    return dice.choice(list(forms), list(forms.values()))


def _colour_phrase(scene: Scene) -> str:
    thing = scene.thing
    return _joined(" and ".join(thing.colours), "" if thing.pattern == "plain" else thing.pattern)


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)

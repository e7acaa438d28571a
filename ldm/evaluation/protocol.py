"""What to ask of a model that was taught a subject: the DreamBooth paper's prompts, and prompts without the token.

Prompts and classes are those that the paper (2208.12242) evaluated with, as its public dataset lists them
(github.com/google/dreambooth, `dataset/prompts_and_classes.txt`): 25 prompts for objects and 25 for living things.
"""

import re

from ldm.prompts import TOKEN

LIVE_CLASSES = frozenset(["cat", "dog"])
"""The dataset's classes whose subjects live; its other thirteen are objects."""

OBJECT_CLASSES = frozenset(
    [
        "backpack",
        "boot",
        "bowl",
        "can",
        "candle",
        "cartoon",
        "clock",
        "glasses",
        "sneaker",
        "stuffed animal",
        "teapot",
        "toy",
        "vase",
    ]
)

_PLACES = (
    "a {token} {class} in the jungle",
    "a {token} {class} in the snow",
    "a {token} {class} on the beach",
    "a {token} {class} on a cobblestone street",
    "a {token} {class} on top of pink fabric",
    "a {token} {class} on top of a wooden floor",
    "a {token} {class} with a city in the background",
    "a {token} {class} with a mountain in the background",
    "a {token} {class} with a blue house in the background",
    "a {token} {class} on top of a purple rug in a forest",
)
_MORE_PLACES = (
    "a {token} {class} with a wheat field in the background",
    "a {token} {class} with a tree and autumn leaves in the background",
    "a {token} {class} with the Eiffel Tower in the background",
    "a {token} {class} floating on top of water",
    "a {token} {class} floating in an ocean of milk",
    "a {token} {class} on top of green grass with sunflowers around it",
    "a {token} {class} on top of a mirror",
    "a {token} {class} on top of the sidewalk in a crowded street",
    "a {token} {class} on top of a dirt road",
    "a {token} {class} on top of a white rug",
)
_CLOTHES = (
    "a {token} {class} wearing a red hat",
    "a {token} {class} wearing a santa hat",
    "a {token} {class} wearing a rainbow scarf",
    "a {token} {class} wearing a black top hat and a monocle",
    "a {token} {class} in a chef outfit",
    "a {token} {class} in a firefighter outfit",
    "a {token} {class} in a police outfit",
    "a {token} {class} wearing pink glasses",
    "a {token} {class} wearing a yellow shirt",
    "a {token} {class} in a purple wizard outfit",
)
_LOOKS = (
    "a red {token} {class}",
    "a purple {token} {class}",
    "a shiny {token} {class}",
    "a wet {token} {class}",
    "a cube shaped {token} {class}",
)


def is_live(class_name: str) -> bool:
    """Whether the paper's list has the class among living things: "dog" and "corgi dog", but not "hot dog stand"."""
    words = class_name.lower().split()
    return bool(words) and words[-1] in LIVE_CLASSES


def dreambooth_prompts(live: bool, token: str = TOKEN) -> tuple[str, ...]:
    """The paper's 25 prompts for an object or a living thing, with "{class}" where the class name goes."""
    templates = _PLACES + (_CLOTHES if live else _MORE_PLACES) + _LOOKS
    return tuple(template.replace("{token}", token) for template in templates)


def without_token(prompt: str, token: str = TOKEN) -> str:
    """The prompt as who doesn't know the token reads it: "a photo of sks dog" -> "a photo of dog".

    The paper's prompts have an article before the token, so that the rest is a sentence.
    """
    return " ".join(re.sub(rf"(?<!\w){re.escape(token)}(?!\w)", " ", prompt).split())

"""Prompts to evaluate a fine-tuned model with: a short list from its YAML, or the DreamBooth paper's.

The paper's (2208.12242) prompts and classes are those that its public dataset lists
(github.com/google/dreambooth, `dataset/prompts_and_classes.txt`): 25 prompts for objects and 25 for living things.
"""

import re
from dataclasses import dataclass

from ldm.choices import ENCODERS
from ldm.prompts import TOKEN, raise_for_prompts


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model's checkpoints are evaluated: a section of its YAML."""

    encoder: str = "clip-dino"
    """The image encoder, one of `ENCODERS`."""
    prompts: tuple[str, ...] = (
        "a photo of sks {class}",
        "a photo of sks {class} in the snow",
        "a photo of sks {class} on the beach",
        "a photo of sks {class} on a wooden floor",
        "a photo of sks {class} with a city in the background",
    )
    """The short list; "{class}" stands for the subject's class."""

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder should be one of {', '.join(ENCODERS)}, not {self.encoder!r:.60}")
        if not self.prompts:
            raise ValueError("prompts should be at least one")
        raise_for_prompts("prompts", self.prompts)


LIVE_CLASSES = frozenset(["cat", "dog"])
"""The dataset's classes of living subjects; its other thirteen are objects."""

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
    """Whether the class is one of the paper's living things: "dog" and "corgi dog" are, "hot dog stand" is not."""
    words = class_name.lower().split()
    return bool(words) and words[-1] in LIVE_CLASSES


def dreambooth_prompts(live: bool, token: str = TOKEN) -> tuple[str, ...]:
    """The paper's 25 prompts for an object or a living thing, with "{class}" where the class name goes."""
    templates = _PLACES + (_CLOTHES if live else _MORE_PLACES) + _LOOKS
    return tuple(template.replace("{token}", token) for template in templates)


def without_token(prompt: str, token: str = TOKEN) -> str:
    """The prompt without the identifier token, for image encoders: "a photo of sks dog" -> "a photo of dog".

    The paper's prompts have an article before the identifier, so that the rest is a sentence.
    """
    return " ".join(re.sub(rf"(?<!\w){re.escape(token)}(?!\w)", " ", prompt).split())

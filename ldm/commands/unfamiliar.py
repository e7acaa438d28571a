"""Warnings, before anything is computed, of words and photos that a model of a small world doesn't know."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ldm.evaluation.encoders import WORLDS, load_encoder
from ldm.evaluation.protocol import without_token
from ldm.files import listed
from ldm.nn.tokenizer import PromptTokenizer
from ldm.runtime.models import Settings

log = logging.getLogger(__name__)

SHOWN = 5
"""How many words a warning names."""
INSTEAD = "real photos need Stable Diffusion: bash download/sd-weights.sh"


def warn_of_unknown_words(settings: Settings, tokenizer: PromptTokenizer, prompts: Iterable[str]) -> bool:
    """Warns of the words that a small world's captions did not have: its tokenizer has no token for them.

    Returns whether it has warned.
    """
    world = WORLDS.get(settings.evaluation.encoder)
    if world is None:
        return False
    words = [word for prompt in prompts for word in tokenizer.unknown_words(without_token(prompt))]
    if words:
        size = f"{settings.sampling.height} x {settings.sampling.width}"
        log.warning(
            "%s does not know %s; it makes %s images of %s; %s",
            *(world.model, in_quotes(words), size, world.images, INSTEAD),
        )
    return bool(words)


def warn_of_photos(settings: Settings, name: str, images: Callable[[], Tensor]) -> bool:
    """Warns if `images` (b 3 h w) of one thing, in [-1, 1], are not of the small world that the model knows.

    Returns whether it has warned.
    """
    world = WORLDS.get(settings.evaluation.encoder)
    if world is None:
        return False
    encoder = load_encoder(settings.evaluation.encoder, torch.device("cpu"))
    photos = images()
    if is_strange := len(photos) > 0 and not encoder.is_familiar(photos):
        size = f"{settings.sampling.height} x {settings.sampling.width}"
        log.warning(
            "%s: this does not look like %s, and %s knows nothing else. It makes %s images; %s",
            *(name, world.images, world.model, size, INSTEAD),
        )
    return is_strange


def in_quotes(words: Iterable[str]) -> str:
    """Each word once, a few of them: 'dog', 'cat' and 3 more."""
    return listed([f"'{word}'" for word in dict.fromkeys(words)], SHOWN)

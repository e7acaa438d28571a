"""Images and captions as unit vectors: one interface, whoever looks at them. A model's YAML names who does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.clip_dino import CLIP_DINO, load_clip_dino
from ldm.toyworld.judge.encoder import Evaluator, load_evaluator

TOYWORLD_JUDGE = "toyworld-judge"
ENCODERS = (TOYWORLD_JUDGE, CLIP_DINO)


@dataclass(frozen=True)
class World:
    """All that a model knows whose images a certain encoder judges."""

    model: str
    """What the model is called."""
    images: str
    """What its images show."""


WORLDS = {TOYWORLD_JUDGE: World("the tiny model", "a rendered world")}
"""By the encoder that a model's YAML names. Models that others judge know of all that there is."""


class Encoder(Protocol):
    """Unit vectors of images (b 3 h w) in [-1, 1] of any size; float32, on the CPU.

    A made-up word such as "sks" means nothing to any of them: leave it out of captions (`protocol.without_token`).
    """

    @property
    def name(self) -> str:
        """One of `ENCODERS`."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def measures(self) -> Mapping[str, str]:
        """By the name of a score: which embedding it is measured in, as people call it."""

    def unknown_words(self, caption: str) -> list[str]:
        """Words of a caption that mean nothing to it."""

    def is_familiar(self, images: Tensor) -> bool:
        """Whether images of one thing look as those do that it was trained with."""

    def embed_subjects(self, images: Tensor) -> Tensor:
        """(b d): images of the same thing are near each other, whatever is around it."""

    def embed_images(self, images: Tensor) -> Tensor:
        """(b e): images that show the same are near each other, and near captions that say so."""

    def embed_captions(self, captions: list[str]) -> Tensor:
        """(c e), in the space of `embed_images`."""


class JudgeEncoder:
    """The judge of the rendered little world as an `Encoder`."""

    name = TOYWORLD_JUDGE
    title = "the rendered world's judge"
    measures = {  # noqa: RUF012 (read only)
        "subject": "the judge's embedding of things",
        "image": "the judge's embedding of images",
        "prompt": "the judge's embeddings of images and captions",
        "diversity": "the judge's embedding of images",
        "leakage": "the judge's embedding of things",
        "drift": "the judge's embedding of images",
    }

    def __init__(self, judge: Evaluator) -> None:
        self.embed_subjects = judge.embed_subjects
        self.embed_images = judge.embed_images
        self.embed_captions = judge.embed_captions
        self.unknown_words = judge.tokenizer.unknown_words
        self.is_familiar = judge.is_familiar


def load_encoder(name: str, device: torch.device) -> Encoder:
    """Reads what is called `name`. Raises `UserError` for another name and for files that are missing or damaged."""
    if name == TOYWORLD_JUDGE:
        return JudgeEncoder(load_evaluator(device))
    if name == CLIP_DINO:
        return load_clip_dino(device)
    raise UserError(f"there is no encoder '{name}'; there are: {', '.join(ENCODERS)}")

"""Pictures and captions as unit vectors: one interface, whoever looks at them. A model's YAML names who does."""

from typing import Protocol

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.clip_dino import CLIP_DINO, load_clip_dino
from ldm.evaluation.judge import Evaluator, load_evaluator

TOYWORLD_JUDGE = "toyworld-judge"
ENCODERS = (TOYWORLD_JUDGE, CLIP_DINO)


class Encoder(Protocol):
    """Unit vectors of pictures (b 3 h w) in [-1, 1] of any size; float32, on the CPU.

    A made-up word such as "sks" means nothing to any of them: leave it out of captions (`protocol.without_token`).
    """

    @property
    def name(self) -> str:
        """One of `ENCODERS`."""

    def embed_subjects(self, images: Tensor) -> Tensor:
        """(b d): pictures of the same thing are near each other, whatever is around it."""

    def embed_images(self, images: Tensor) -> Tensor:
        """(b e): pictures that show the same are near each other, and near captions that say so."""

    def embed_captions(self, captions: list[str]) -> Tensor:
        """(c e), in the space of `embed_images`."""


class JudgeEncoder:
    """The judge of the rendered little world as an `Encoder`."""

    name = TOYWORLD_JUDGE

    def __init__(self, judge: Evaluator) -> None:
        self.embed_subjects = judge.embed_subjects
        self.embed_images = judge.embed_images
        self.embed_captions = judge.embed_captions


def load_encoder(name: str, device: torch.device) -> Encoder:
    """Reads what is called `name`. Raises `UserError` for another name and for files that are missing or damaged."""
    if name == TOYWORLD_JUDGE:
        return JudgeEncoder(load_evaluator(device))
    if name == CLIP_DINO:
        return load_clip_dino(device)
    raise UserError(f"there is no encoder '{name}'; there are: {', '.join(ENCODERS)}")

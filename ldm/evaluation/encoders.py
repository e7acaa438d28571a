"""Image encoders: images and captions as unit vectors. A model's YAML names the encoder that scores its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm.choices import ENCODERS
from ldm.errors import UserError
from ldm.evaluation.alignment import thumbnails
from ldm.toyworld.judge.encoder import Evaluator, load_evaluator

TOYWORLD_JUDGE = "toyworld-judge"


@dataclass(frozen=True)
class World:
    """A small world: the only images that a model can make."""

    model: str
    """What the model is called."""
    images: str
    """What its images show."""


WORLDS = {TOYWORLD_JUDGE: World("the tiny model", "a rendered world")}
"""Small worlds by the encoder that a model's YAML names. Models with another encoder make all kinds of images."""


class ImageEncoder(Protocol):
    """Unit vectors of images (b 3 h w) in [-1, 1] of any size; float32, on the CPU.

    An identifier such as "sks" means nothing to any encoder: leave it out of captions (`protocol.without_token`).
    """

    @property
    def name(self) -> str:
        """One of `ENCODERS`."""

    @property
    def title(self) -> str:
        """Its name in messages and reports."""

    @property
    def spaces(self) -> Mapping[str, str]:
        """What its embeddings are called in reports: "things", "images", and "captions" beside images."""

    def unknown_words(self, caption: str) -> list[str]:
        """Words of a caption that mean nothing to it."""

    def is_familiar(self, images: Tensor) -> bool:
        """Whether images of one thing look like those that it was trained with."""

    def embed_subjects(self, images: Tensor) -> Tensor:
        """(b d): images of the same thing are near each other, whatever its surroundings."""

    def embed_images(self, images: Tensor) -> Tensor:
        """(b e): images that show the same are near each other, and near captions that say so."""

    def embed_captions(self, captions: list[str]) -> Tensor:
        """(c e), in the space of `embed_images`."""


class JudgeEncoder:
    """The judge of the rendered toy world as an `ImageEncoder`."""

    name = TOYWORLD_JUDGE
    title = "the rendered world's judge"
    spaces = {  # noqa: RUF012 (read only)
        "things": "the judge's embedding of things",
        "images": "the judge's embedding of images",
        "captions": "the judge's embeddings of images and captions",
    }

    def __init__(self, judge: Evaluator) -> None:
        self.embed_subjects = judge.embed_subjects
        self.embed_images = judge.embed_images
        self.embed_captions = judge.embed_captions
        self.unknown_words = judge.tokenizer.unknown_words
        self.is_familiar = judge.is_familiar


def load_judge_encoder(device: torch.device) -> JudgeEncoder:
    """The embedded judge. Raises `UserError` if its file is missing or damaged."""
    return JudgeEncoder(load_evaluator(device))


def load_encoder(name: str, device: torch.device) -> ImageEncoder:
    """Reads the encoder of that name. Raises `UserError` for an unknown name and for missing or damaged files."""
    if name not in ENCODERS:
        raise UserError(f"there is no encoder '{name}'; there are: {', '.join(ENCODERS)}")
    encoder: ImageEncoder = ENCODERS[name].load()(device)
    return encoder


@dataclass(frozen=True)
class ImageFeatures:
    """What is kept of b images to score them: a few hundred numbers each. All are NaN where an image is missing."""

    subjects: Tensor
    """Unit vectors (b d) of the things in them: `ImageEncoder.embed_subjects`."""
    images: Tensor
    """Unit vectors (b e) of the whole images: `ImageEncoder.embed_images`."""
    thumbnails: Tensor
    """(b 3 SIDE SIDE) in [-1, 1]: `alignment.thumbnails`."""

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def present(self) -> Tensor:
        """(b) bool: which images exist."""
        return ~self.subjects.isnan().any(dim=1)

    def select(self, chosen: Tensor | slice) -> "ImageFeatures":
        """The images at indices, in a slice, or where a mask (b) holds."""
        return ImageFeatures(self.subjects[chosen], self.images[chosen], self.thumbnails[chosen])


def extract_features(encoder: ImageEncoder, images: Tensor) -> ImageFeatures:
    """Features of images (b 3 h w) in [-1, 1]."""
    return ImageFeatures(encoder.embed_subjects(images), encoder.embed_images(images), thumbnails(images))


def joined(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """The features of several batches as those of one."""
    return ImageFeatures(
        torch.cat([part.subjects for part in parts]),
        torch.cat([part.images for part in parts]),
        torch.cat([part.thumbnails for part in parts]),
    )


def with_gaps(features: ImageFeatures, columns: Sequence[int], count: int) -> ImageFeatures:
    """Features of a row of `count` images, of which those at `columns` exist."""

    def spread(values: Tensor) -> Tensor:
        row = values.new_full((count, *values.shape[1:]), torch.nan)
        row[torch.tensor(columns, dtype=torch.int64)] = values
        return row

    return ImageFeatures(spread(features.subjects), spread(features.images), spread(features.thumbnails))

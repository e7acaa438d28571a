"""Training data of the judge: things with several images, and lone images, with captions and labels."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar

import torch
from torch import Tensor

from ldm.data.batches import DeviceShare, StepBatches
from ldm.data.captioned import CaptionedImage, find_captioned
from ldm.data.degradation import degrade
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.errors import UserError
from ldm.nn.tokenizer import PromptTokenizer
from ldm.toyworld import CLASSES, COLOURS, SETTINGS
from ldm.toyworld.judge.network import Head
from ldm.toyworld.words import PATTERNS

log = logging.getLogger(__name__)

HEADS = (
    Head("class", tuple(CLASSES)),
    Head("setting", tuple(SETTINGS)),
    Head("colour", tuple(COLOURS)),
    Head("pattern", tuple(PATTERNS)),
)
"""What the judge classifies; the names are columns of the toy world's datasets."""

NO_LABEL = -100
"""The label of an image without an answer; cross entropy ignores it."""

HALF_AND_HALF = ("striped", "checkered")
"""Patterns whose two colours cover equal areas, so that neither is visibly the main one."""

SUBJECT = "subject"
"""The column that says which images show the same thing."""

Option = TypeVar("Option")


class JudgeBatch(TypedDict):
    """The first `pairs` images and the next `pairs` show the same things, in this order; the others are lone ones."""

    images: Tensor
    """(b 3 size size) in [-1, 1], degraded."""
    input_ids: Tensor
    """One of each image's captions: (b max_length) int64."""
    labels: dict[str, Tensor]
    """By head: (b,) int64, NO_LABEL where there is none."""
    pairs: int


class Images:
    """Images of one or several folders: `things` with two or more images each, and `lone` ones."""

    def __init__(self, directories: Sequence[Path]) -> None:
        by_thing: dict[object, list[CaptionedImage]] = defaultdict(list)
        for directory in directories:
            for image in find_captioned(directory):
                thing = image.columns.get(SUBJECT)
                by_thing[image.path if thing is None else (directory, thing)].append(image)
        self.things = [images for images in by_thing.values() if len(images) > 1]
        self.lone = [images[0] for images in by_thing.values() if len(images) == 1]
        if not self.things:
            raise UserError(
                f"{', '.join(map(str, directories))}: no thing has two images, so the judge can't learn to recognise "
                "one; write such images with python -m ldm.toyworld --dataset data/toyworld/views --views 3"
            )
        log.info("%d things with several images, %d lone images", len(self.things), len(self.lone))


class JudgeBatches(StepBatches[JudgeBatch]):
    """Two images each of `share.batch_size` things, and as many lone images, if there are any."""

    def __init__(self, images: Images, tokenizer: PromptTokenizer, size: int, share: DeviceShare) -> None:
        super().__init__(share, len(images.things))
        self.images = images
        self.tokenizer = tokenizer
        self.size = size

    def batch(self, indices: list[int], generator: torch.Generator) -> JudgeBatch:
        things = [self.images.things[index] for index in indices]
        first, second = zip(*(_two_of(images, generator) for images in things), strict=True)
        lone = [_one_of(self.images.lone, generator) for _ in range(2 * len(indices)) if self.images.lone]
        chosen = [*first, *second, *lone]
        return JudgeBatch(
            images=degrade(read_images(chosen, self.size), generator),
            input_ids=self.tokenizer([_one_of(image.captions, generator) for image in chosen]),
            labels=label_indices(chosen),
            pairs=len(indices),
        )


def read_images(images: Iterable[CaptionedImage], size: int) -> Tensor:
    """The images (b 3 size size) in [-1, 1]."""
    return torch.stack([to_tensor(fit_image(read_image(image.path, size), size, size)) for image in images])


def label_indices(images: Iterable[CaptionedImage]) -> dict[str, Tensor]:
    """By head: the label in each image's column, (b,) int64, NO_LABEL where it has none of the head's labels."""
    return {head.name: torch.tensor([_index(head, image.columns.get(head.name)) for image in images]) for head in HEADS}


def right_answers(image: CaptionedImage) -> dict[str, set[str]]:
    """By head: the right labels, none where the image's column has none.

    For stripes and checks both colours are right; the canonical caption, the first, names them.
    """
    right = {head.name: {*head.labels} & {image.columns.get(head.name)} for head in HEADS}
    if image.columns.get("pattern") in HALF_AND_HALF:
        right["colour"] |= {word for word in image.captions[0].split() if word in COLOURS}
    return right


def _index(head: Head, label: object) -> int:
    return head.labels.index(label) if label in head.labels else NO_LABEL


def _one_of(options: Sequence[Option], generator: torch.Generator) -> Option:
    return options[int(torch.randint(len(options), (), generator=generator))]


def _two_of(options: Sequence[Option], generator: torch.Generator) -> tuple[Option, Option]:
    first, second = torch.randperm(len(options), generator=generator)[:2].tolist()
    return options[first], options[second]

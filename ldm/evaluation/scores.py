"""What a sweep's images are worth: a number per image, and per checkpoint its mean with an interval.

The scores are those of the DreamBooth paper (2208.12242, section 4): DINO and CLIP-I of subject fidelity, CLIP-T of
prompt fidelity, PRES of the class's preservation, DIV of diversity; the last by cosine distances instead of LPIPS. With
another encoder than DINO and CLIP they have its meaning and its scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from ldm.evaluation.bootstrap import interval, resample
from ldm.evaluation.copies import CopyBounds, copy_bounds, find_copies
from ldm.evaluation.encoders import Encoder
from ldm.evaluation.features import ImageFeatures
from ldm.evaluation.protocol import without_token
from ldm.evaluation.results import CLASS, SUBJECT, Interval, PromptSpec, Reference, Score

SCORES = (
    Score(
        "subject",
        "Subject",
        True,
        "Is it the subject? Mean cosine of a picture of the subject with the photos, in an embedding of things. "
        "At best as near as the photos are to each other.",
    ),
    Score(
        "image",
        "Image",
        True,
        "The same in an embedding of whole images, which sees the surroundings, too.",
    ),
    Score(
        "prompt",
        "Prompt",
        True,
        "Does it show what was asked for? Cosine of the image and its prompt without the token.",
    ),
    Score(
        "diversity",
        "Diversity",
        True,
        "Do seeds make a difference? Mean cosine distance between images of one prompt. "
        "A model that knows its photos by heart draws the same again and again.",
    ),
    Score(
        "copy",
        "Copies",
        False,
        "The share of images of the subject that are copies of a photo: nearer to it than photos, or images of the "
        "base model, are to a photo, both in what they show and as pixels laid on each other.",
    ),
    Score(
        "leakage",
        "Leakage",
        False,
        "Has any thing of the class become the subject? Mean cosine of images of the class with the photos.",
    ),
    Score(
        "drift",
        "Class kept",
        True,
        "Mean cosine of images of the class with what the base model drew from the same noise; 1 is unchanged.",
    ),
)
"""What is known of a row, in the order in which people read it."""

COPY_DETAILS = (
    Score(
        "copy_photo", "Nearest photo", True, "The photo that a picture of the subject is nearest to, counted from 0."
    ),
    Score("copy_image", "Nearness", False, "Cosine of the whole image with that photo."),
    Score("copy_pixels", "Pixels", False, "Correlation with that photo, laid on it by moving, mirroring and scaling."),
)
"""What is known of a single image of the subject besides."""


def explained(score: Score, measures: Mapping[str, str]) -> Score:
    """A score whose explanation also says in which embedding it was measured: `Encoder.measures`."""
    measure = measures.get(score.name)
    return replace(score, explanation=f"{score.explanation} Measured in {measure}.") if measure else score


@dataclass(frozen=True)
class GroupScores:
    """All scores of rows that share a subject, its photos and a base row."""

    asked: tuple[PromptSpec, ...]
    cells: dict[str, Tensor]
    """By the name of a score or detail: (rows columns) float64, NaN where it says nothing about an image."""
    rows: list[dict[str, Interval]]
    """Of each row, by the name of a score; one that is not known is absent."""
    references: dict[str, Reference]
    prompt_floor: float | None
    """How well the photos themselves fit the prompts: the prompt score of who draws a photo whatever is asked for."""
    bounds: CopyBounds | None
    """From where on an image is a copy; None without photos."""

    def of_cell(self, row: int, column: int) -> dict[str, float]:
        """What is known of one image."""
        found = {name: values[row, column].item() for name, values in self.cells.items()}
        return {name: value for name, value in found.items() if value == value}  # NaN is not equal to itself


def score_group(
    encoder: Encoder,
    asked: Sequence[PromptSpec],
    rows: Sequence[ImageFeatures],
    photos: ImageFeatures | None = None,
    base: int | None = None,
) -> GroupScores:
    """Scores what checkpoints of one subject drew.

    `rows` have one image per column of `asked`; `base` is the index of the row that the base model drew, if there is
    one. Without `photos` only prompts, diversity and drift are known. Any of the sequences may be empty.
    """
    if not rows:
        return GroupScores(tuple(asked), {}, [], {}, None, None)
    photos = photos if photos is not None and len(photos) else None
    captions = encoder.embed_captions([without_token(one.prompt) for one in asked])
    prompts = torch.tensor([one.prompt_index for one in asked], dtype=torch.int64)
    of_class = torch.tensor([one.kind == CLASS for one in asked], dtype=torch.bool)
    of_subject = torch.tensor([one.kind == SUBJECT for one in asked], dtype=torch.bool)
    drawn = rows[base] if base is not None else None

    cells = {
        "prompt": _only(~of_class, [(row.images * captions).sum(dim=1) for row in rows]),
        "diversity": _only(~of_class, [_distances(row.images, prompts) for row in rows]),
    }
    if drawn is not None:
        cells["drift"] = _only(of_class, [(row.images * drawn.images).sum(dim=1) for row in rows])
    bounds = floor = None
    if photos is not None:
        things = [(row.subjects @ photos.subjects.mT).mean(dim=1) for row in rows]
        cells["subject"], cells["leakage"] = _only(of_subject, things), _only(of_class, things)
        cells["image"] = _only(of_subject, [(row.images @ photos.images.mT).mean(dim=1) for row in rows])
        bounds = copy_bounds(photos, _columns(drawn, of_subject) if drawn is not None else None)
        cells |= _copies([_columns(row, of_subject) for row in rows], photos, bounds, of_subject)
        floor = (photos.images @ captions[~of_class].mT).mean().item() if not of_class.all() else None

    weights = resample(asked)
    names = [score.name for score in SCORES if score.name in cells]
    means = [{name: interval(cells[name][row], weights) for name in names} for row in range(len(rows))]
    known = [{name: value for name, value in row.items() if value is not None} for row in means]
    return GroupScores(tuple(asked), cells, known, _references(known, photos, base), floor, bounds)


def _copies(
    rows: list[ImageFeatures], photos: ImageFeatures, bounds: CopyBounds, of_subject: Tensor
) -> dict[str, Tensor]:
    """The cells of copies and their details; `rows` have the columns of the subject only."""
    together = ImageFeatures(
        *(torch.cat(parts) for parts in zip(*((r.subjects, r.images, r.thumbnails) for r in rows), strict=True))
    )
    found = find_copies(together, photos, bounds)
    cells = {}
    for name, values in (
        ("copy", found.is_copy),
        ("copy_photo", found.photo),
        ("copy_image", found.image),
        ("copy_pixels", found.pixels),
    ):
        cells[name] = torch.full((len(rows), len(of_subject)), torch.nan, dtype=torch.float64)
        cells[name][:, of_subject] = rearrange(values, "(rows columns) -> rows columns", rows=len(rows))
    return cells


def _only(columns: Tensor, rows: list[Tensor]) -> Tensor:
    """(rows columns) with NaN where the score says nothing."""
    return torch.where(columns, torch.stack(rows).double(), torch.nan)


def _columns(seen: ImageFeatures, chosen: Tensor) -> ImageFeatures:
    return ImageFeatures(seen.subjects[chosen], seen.images[chosen], seen.thumbnails[chosen])


def _distances(images: Tensor, prompts: Tensor) -> Tensor:
    """Of each image, the mean cosine distance (b) to the others of its prompt; NaN if there are none."""
    other = (prompts[:, None] == prompts[None]) & ~torch.eye(len(prompts), dtype=torch.bool)
    distances = torch.where(other, 1.0 - images @ images.mT, torch.nan)
    return distances.nanmean(dim=1)


def _references(
    rows: list[dict[str, Interval]], photos: ImageFeatures | None, base: int | None
) -> dict[str, Reference]:
    """What each score was before training, and is at best where that is known."""
    ceilings: dict[str, float] = {}
    if photos is not None and len(photos) > 1:
        ceilings = {"subject": _among_themselves(photos.subjects), "image": _among_themselves(photos.images)}
    before = rows[base] if base is not None else {}
    names = [score.name for score in SCORES if any(score.name in row for row in rows)]
    return {name: Reference(ceilings.get(name), before[name].mean if name in before else None) for name in names}


def _among_themselves(vectors: Tensor) -> float:
    """The mean cosine of two different ones."""
    cosines = vectors @ vectors.mT
    return cosines[~torch.eye(len(vectors), dtype=torch.bool)].mean().item()

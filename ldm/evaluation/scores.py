"""The scores of a comparison: a number per image, and per checkpoint its mean with an interval.

They are those of the DreamBooth paper (2208.12242, section 4): DINO and CLIP-I for subject fidelity, CLIP-T for prompt
fidelity, PRES for preservation of the class, DIV for diversity; the last with cosine distances instead of LPIPS. With
another encoder than DINO and CLIP they have the same meaning and scale.

`SCORES` is the one table of them: a new score is a function and an entry. The terminal's table, the CSV and JSON files
and the page take their columns from it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ldm.evaluation.bootstrap import interval, resample
from ldm.evaluation.copies import Nearness, copy_bounds, find_copies
from ldm.evaluation.encoders import ImageEncoder, ImageFeatures, joined, with_gaps
from ldm.evaluation.protocol import without_token
from ldm.evaluation.results import CLASS, OTHER, SUBJECT, Interval, PromptSpec, Reference, Score


@dataclass(frozen=True)
class GroupFeatures:
    """What the scores of one group are computed from: rows that share their columns, photos and base row."""

    specs: tuple[PromptSpec, ...]
    """One per column."""
    rows: tuple[ImageFeatures, ...]
    """One image per column."""
    captions: Tensor
    """Unit vectors (columns e) of the prompts without the identifier token."""
    photos: ImageFeatures
    """The photos of the subject; empty if unknown."""
    base: ImageFeatures
    """The base model's row; all missing if there is none."""

    def columns(self, *kinds: str) -> Tensor:
        """(columns) bool: those of prompts of these kinds."""
        return torch.tensor([spec.kind in kinds for spec in self.specs], dtype=torch.bool)

    @cached_property
    def nearness(self) -> Nearness:
        """How near each image of the subject is to a photo, row after row: (rows * columns)."""
        chosen = self.columns(SUBJECT)
        bounds = copy_bounds(self.photos, self.base.select(chosen))
        kept = chosen.nonzero()[:, 0].tolist()
        of_subject = [with_gaps(row.select(chosen), kept, len(chosen)) for row in self.rows]
        return find_copies(joined(of_subject), self.photos, bounds)


Values = Callable[[GroupFeatures], list[Tensor]]
"""One (columns) tensor per row; only the columns that a score is about are kept."""


@dataclass(frozen=True)
class Definition:
    """A score, and how it is computed."""

    score: Score
    values: Values
    kinds: tuple[str, ...]
    """The kinds of prompts whose images it is about."""
    space: str | None = None
    """The embedding that it is measured in, a key of `ImageEncoder.spaces`."""
    needs_photos: bool = False
    needs_base: bool = False
    ceiling: Callable[[ImageFeatures], Tensor] | None = None
    """The best that can be reached, from two photos or more."""
    is_detail: bool = False
    """Shown of single images only: a checkpoint has no mean of it."""

    @property
    def name(self) -> str:
        """Its name in files."""
        return self.score.name

    def is_known(self, group: GroupFeatures) -> bool:
        """Whether a group has the photos and the base row that the score needs."""
        has_photos, has_base = len(group.photos) > 0, bool(group.base.present.any())
        return (has_photos or not self.needs_photos) and (has_base or not self.needs_base)

    def described(self, spaces: Mapping[str, str]) -> Score:
        """The score, explained with the name of its embedding, one of an encoder's `spaces`."""
        if self.space is None:
            return self.score
        return replace(self.score, explanation=f"{self.score.explanation} Measured in {spaces[self.space]}.")


def subject_values(group: GroupFeatures) -> list[Tensor]:
    """Mean cosine with the photos as things."""
    return [(row.subjects @ group.photos.subjects.mT).mean(dim=1) for row in group.rows]


def image_values(group: GroupFeatures) -> list[Tensor]:
    """Mean cosine with the photos as whole images."""
    return [(row.images @ group.photos.images.mT).mean(dim=1) for row in group.rows]


def prompt_values(group: GroupFeatures) -> list[Tensor]:
    """Cosine with the prompt."""
    return [(row.images * group.captions).sum(dim=1) for row in group.rows]


def drift_values(group: GroupFeatures) -> list[Tensor]:
    """Cosine with the base model's image of the same column."""
    return [(row.images * group.base.images).sum(dim=1) for row in group.rows]


def diversity_values(group: GroupFeatures) -> list[Tensor]:
    """Mean cosine distance to the other images of the same prompt; NaN if there are none."""
    prompts = torch.tensor([spec.prompt_index for spec in group.specs], dtype=torch.int64)
    other = (prompts[:, None] == prompts[None]) & ~torch.eye(len(prompts), dtype=torch.bool)
    return [torch.where(other, 1.0 - row.images @ row.images.mT, torch.nan).nanmean(dim=1) for row in group.rows]


def copy_values(field: Callable[[Nearness], Tensor]) -> Values:
    """The values of a field of `Nearness`, by row."""
    return lambda group: list(field(group.nearness).view(len(group.rows), len(group.specs)))


def mean_cosine(vectors: Tensor) -> Tensor:
    """The mean cosine of two different vectors of (n d)."""
    return (vectors @ vectors.mT)[~torch.eye(len(vectors), dtype=torch.bool)].mean()


SCORES = (
    Definition(
        Score(
            "subject",
            "Subject",
            True,
            "Is it the subject? Mean cosine of an image of the subject with the photos, in an embedding of things. "
            "The best possible value is that of the photos with each other.",
        ),
        subject_values,
        (SUBJECT,),
        "things",
        needs_photos=True,
        ceiling=lambda photos: mean_cosine(photos.subjects),
    ),
    Definition(
        Score("image", "Image", True, "The same in an embedding of whole images, which includes the surroundings."),
        image_values,
        (SUBJECT,),
        "images",
        needs_photos=True,
        ceiling=lambda photos: mean_cosine(photos.images),
    ),
    Definition(
        Score(
            "prompt",
            "Prompt",
            True,
            "Does it show what the prompt says? Cosine of the image and its prompt without the identifier token.",
        ),
        prompt_values,
        (SUBJECT, OTHER),
        "captions",
    ),
    Definition(
        Score(
            "diversity",
            "Diversity",
            True,
            "Do seeds make a difference? Mean cosine distance between images of one prompt. "
            "A model that has memorised its photos gives the same image for every seed.",
        ),
        diversity_values,
        (SUBJECT, OTHER),
        "images",
    ),
    Definition(
        Score(
            "copy",
            "Copies",
            False,
            "The share of images of the subject that are copies of a photo: nearer to it than other photos, or images "
            "of the base model, are to a photo, both in what they show and as aligned pixels.",
        ),
        copy_values(lambda nearness: nearness.is_copy),
        (SUBJECT,),
        needs_photos=True,
    ),
    Definition(
        Score(
            "leakage",
            "Leakage",
            False,
            "Has every thing of the class become the subject? Mean cosine of images of the class with the photos "
            "(PRES in the DreamBooth paper).",
        ),
        subject_values,
        (CLASS,),
        "things",
        needs_photos=True,
    ),
    Definition(
        Score(
            "drift",
            "Class kept",
            True,
            "Mean cosine of images of the class with those of the base model from the same noise; 1 is unchanged.",
        ),
        drift_values,
        (CLASS,),
        "images",
        needs_base=True,
    ),
    Definition(
        Score(
            "copy_photo", "Nearest photo", True, "The photo that an image of the subject is nearest to, counted from 0."
        ),
        copy_values(lambda nearness: nearness.photo),
        (SUBJECT,),
        needs_photos=True,
        is_detail=True,
    ),
    Definition(
        Score("copy_image", "Nearness", False, "Cosine of the whole image with that photo."),
        copy_values(lambda nearness: nearness.image),
        (SUBJECT,),
        needs_photos=True,
        is_detail=True,
    ),
    Definition(
        Score("copy_pixels", "Pixels", False, "Correlation with that photo after moving, mirroring and scaling it."),
        copy_values(lambda nearness: nearness.pixels),
        (SUBJECT,),
        needs_photos=True,
        is_detail=True,
    ),
)
"""All scores, in the order in which they are shown."""


def described_scores(names: Collection[str], spaces: Mapping[str, str]) -> list[Score]:
    """The scores of these names, in order, each with its embedding, of an encoder's `spaces`."""
    return [one.described(spaces) for one in SCORES if one.name in names]


@dataclass(frozen=True)
class GroupScores:
    """All scores of the rows of a group."""

    specs: tuple[PromptSpec, ...]
    cells: dict[str, Tensor]
    """By score: (rows columns) float64, NaN where it says nothing about an image."""
    rows: list[dict[str, Interval]]
    """The mean and interval of each row, by score; an unknown score is absent."""
    references: dict[str, Reference]
    prompt_floor: float | None
    """The prompt score of the photos themselves: that of a model that shows them whatever the prompt says."""

    def of_cell(self, row: int, column: int) -> dict[str, float]:
        """The known scores of one image."""
        found = {name: values[row, column].item() for name, values in self.cells.items()}
        return {name: value for name, value in found.items() if value == value}  # NaN is not equal to itself


def score_group(
    encoder: ImageEncoder,
    specs: Sequence[PromptSpec],
    rows: Sequence[ImageFeatures],
    photos: ImageFeatures | None = None,
    base: int | None = None,
) -> GroupScores:
    """Scores the images of checkpoints of one subject.

    `rows` have one image per column of `specs`; `base` is the index of the base model's row, if there is one. Without
    `photos` only prompts, diversity and drift are known. Any of the sequences may be empty.
    """
    if not rows:
        return GroupScores(tuple(specs), {}, [], {}, None)
    group = GroupFeatures(
        specs=tuple(specs),
        rows=tuple(rows),
        captions=encoder.embed_captions([without_token(spec.prompt) for spec in specs]),
        photos=photos if photos is not None else rows[0].select(slice(0)),
        base=rows[base] if base is not None else with_gaps(rows[0].select(slice(0)), [], len(specs)),
    )
    known = [definition for definition in SCORES if definition.is_known(group)]
    cells = {one.name: torch.where(group.columns(*one.kinds), _stacked(one.values(group)), torch.nan) for one in known}
    weights = resample(specs)
    means: list[dict[str, Interval]] = []
    for row in range(len(rows)):
        found = {one.name: interval(cells[one.name][row], weights) for one in known if not one.is_detail}
        means.append({name: value for name, value in found.items() if value is not None})
    return GroupScores(tuple(specs), cells, means, _references(known, means, group.photos, base), _floor(group))


def _stacked(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows).double()


def _floor(group: GroupFeatures) -> float | None:
    captions = group.captions[group.columns(SUBJECT, OTHER)]
    if not (len(group.photos) and len(captions)):
        return None
    return (group.photos.images @ captions.mT).mean().item()


def _references(
    known: Sequence[Definition], rows: list[dict[str, Interval]], photos: ImageFeatures, base: int | None
) -> dict[str, Reference]:
    """Each score's value before training, and its best possible one where that is known."""
    before = rows[base] if base is not None else {}
    return {
        one.name: Reference(
            ceiling=one.ceiling(photos).item() if one.ceiling and len(photos) > 1 else None,
            base=before[one.name].mean if one.name in before else None,
        )
        for one in known
        if any(one.name in row for row in rows)
    }

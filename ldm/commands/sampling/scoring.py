"""Scores of a comparison: an image encoder compares the images with photos and prompts; which checkpoint to use."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ldm.commands.unfamiliar import in_quotes
from ldm.data.images import read_image, to_tensor
from ldm.evaluation.encoders import ImageEncoder, ImageFeatures, extract_features, joined, with_gaps
from ldm.evaluation.protocol import without_token
from ldm.evaluation.recommendation import RULE, Candidate, recommend
from ldm.evaluation.results import PromptSpec, Recommendation
from ldm.evaluation.scores import GroupScores, described_scores, score_group
from ldm.progress import Progress
from ldm.report.comparison import Column, ComparisonData, Group, Row

log = logging.getLogger(__name__)

AT_A_TIME = 32


def scored(
    comparison: ComparisonData,
    directory: Path,
    photos: Sequence[Sequence[Image.Image]],
    encoder: ImageEncoder,
) -> ComparisonData:
    """The comparison with the scores of all images in `directory`, and a recommendation for each group.

    `photos`: those of each group's subject, all of one size, cropped as for training.
    """
    rows, groups = list(comparison.rows), list(comparison.groups)
    images = sum(cell is not None for row in rows for cell in row.cells)
    notes = _unknown_words_note(comparison, encoder)
    with Progress(images + sum(map(len, photos)), "scoring", "img") as progress:
        for index, group in enumerate(comparison.groups):
            members = [i for i, row in enumerate(rows) if row.group == index]
            if not members:
                continue
            photo_features, familiar = _photo_features(encoder, photos[index], progress)
            if not familiar:
                notes.append(_unfamiliar_photos_note(group, encoder))
            row_features = [_row_features(encoder, rows[i], directory, progress) for i in members]
            prompts = _prompt_specs(comparison.columns, [rows[i] for i in members])
            base = next((place for place, i in enumerate(members) if rows[i].is_base), None)
            scores = score_group(encoder, prompts, row_features, photo_features, base)
            for place, i in enumerate(members):
                rows[i] = _with_scores(rows[i], scores, place)
            groups[index] = replace(
                group,
                references=scores.references,
                recommendation=_recommendation(group, comparison.rows, members, scores),
            )
    found = {name for row in rows for cell in row.cells if cell for name in cell.scores}
    return replace(
        comparison,
        rows=rows,
        groups=groups,
        scores=described_scores(found, encoder.spaces),
        scored_by=encoder.title,
        notes=[*comparison.notes, *notes],
        rule=RULE,
    )


def _unknown_words_note(comparison: ComparisonData, encoder: ImageEncoder) -> list[str]:
    """A note on words of prompts that the encoder doesn't know."""
    prompts = dict.fromkeys(cell.prompt for row in comparison.rows for cell in row.cells if cell)
    words = [word for prompt in prompts for word in encoder.unknown_words(without_token(prompt))]
    if not words:
        return []
    return [
        f"{encoder.title} was not trained with {in_quotes(words)}: the prompt score of prompts with such words uses "
        "only their other words, and means little."
    ]


def _unfamiliar_photos_note(group: Group, encoder: ImageEncoder) -> str:
    whose = f" of '{group.subject}'" if group.subject else ""
    return (
        f"The photos{whose} do not look like the training images of {encoder.title}: scores by the photos mean little."
    )


def _photo_features(
    encoder: ImageEncoder, photos: Sequence[Image.Image], progress: Progress
) -> tuple[ImageFeatures | None, bool]:
    """The features of the photos, and whether the encoder was trained with images like them."""
    if not photos:
        return None, True
    images = torch.stack([to_tensor(photo) for photo in photos])
    progress.update(len(photos))
    return extract_features(encoder, images), encoder.is_familiar(images)


def _row_features(encoder: ImageEncoder, row: Row, directory: Path, progress: Progress) -> ImageFeatures:
    """A few images are in memory at a time; only their features stay."""
    places = [place for place, cell in enumerate(row.cells) if cell is not None]
    parts = []
    for start in range(0, len(places), AT_A_TIME):
        images = [_read(directory / cell.file) for i in places[start : start + AT_A_TIME] if (cell := row.cells[i])]
        parts.append(extract_features(encoder, torch.stack(images)))
        progress.update(len(images))
    return with_gaps(joined(parts), places, len(row.cells))


def _read(path: Path) -> Tensor:
    return to_tensor(read_image(path))


def _prompt_specs(columns: Sequence[Column], rows: Sequence[Row]) -> list[PromptSpec]:
    """The columns' prompts, seeds and kinds, with the class of these rows filled in."""
    specs = []
    for place, column in enumerate(columns):
        sampled = (cell.prompt for row in rows if (cell := row.cells[place]))
        specs.append(PromptSpec(column.prompt_index, column.seed, column.kind, next(sampled, column.prompt)))
    return specs


def _with_scores(row: Row, scores: GroupScores, place: int) -> Row:
    cells = [cell and replace(cell, scores=scores.of_cell(place, column)) for column, cell in enumerate(row.cells)]
    return replace(row, cells=cells, scores=scores.rows[place])


def _recommendation(
    group: Group, rows: Sequence[Row], members: Sequence[int], scores: GroupScores
) -> Recommendation | None:
    """The recommendation, with the index among all rows; None for a model without a subject."""
    if not group.subject:
        return None
    candidates = [Candidate(rows[i].label, rows[i].step, rows[i].run, rows[i].is_base) for i in members]
    found = recommend(candidates, scores)
    return replace(found, row=None if found.row is None else members[found.row])

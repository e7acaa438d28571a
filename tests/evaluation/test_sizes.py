"""Scores of few images or none: a number where one is known, nothing where not, and never a failure."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldm.evaluation.alignment import SIDE, aligned_correlation, thumbnails
from ldm.evaluation.encoders import ImageFeatures, extract_features, with_gaps
from ldm.evaluation.recommendation import Candidate, recommend
from ldm.evaluation.results import CLASS, OTHER, SUBJECT, PromptSpec
from ldm.evaluation.scores import SCORES, score_group
from ldm.nn.memory import apply_in_batches

FEW = st.integers(0, 3)


class Hash:
    """An encoder that gives different images different vectors."""

    name = "hash"

    def embed_subjects(self, images: Tensor) -> Tensor:
        return apply_in_batches(images, 2, lambda part: F.normalize(part[:, 0, :2, :2].flatten(1) + 0.1, dim=-1))

    def embed_images(self, images: Tensor) -> Tensor:
        return apply_in_batches(images, 2, lambda part: F.normalize(part[:, 1, :2, :2].flatten(1) + 0.1, dim=-1))

    def embed_captions(self, captions: list[str]) -> Tensor:
        return F.normalize(torch.tensor([[len(one), 1.0, 2.0, 3.0] for one in captions]).reshape(-1, 4), dim=-1)


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def spread_out(encoder: Hash, places: list[int], count: int, seed: int) -> ImageFeatures:
    return with_gaps(extract_features(encoder, images(len(places), seed)), places, count)


@settings(max_examples=60, derandomize=True)
@given(st.data())
def test_any_numbers_of_prompts_seeds_rows_and_photos_are_scored(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([SUBJECT, CLASS, OTHER]), max_size=3), label="prompts")
    seeds, rows, photos = (data.draw(FEW, label=label) for label in ("seeds", "rows", "photos"))
    specs = [
        PromptSpec(index, seed, kind, f"a {kind} {index}") for index, kind in enumerate(kinds) for seed in range(seeds)
    ]
    columns = st.sets(st.sampled_from(range(len(specs)))) if specs else st.just(set())
    there = [sorted(data.draw(columns, label="images")) for _ in range(rows)]
    base = data.draw(st.sampled_from([None, *range(rows)]), label="base")

    encoder = Hash()
    features = [spread_out(encoder, places, len(specs), 10 + row) for row, places in enumerate(there)]
    scores = score_group(encoder, specs, features, extract_features(encoder, images(photos, 1)), base)

    assert len(scores.rows) == rows
    for row, places in enumerate(there):
        of_subject = [place for place in places if specs[place].kind == SUBJECT]
        of_class = [place for place in places if specs[place].kind == CLASS]
        known = scores.rows[row]
        assert ("subject" in known) is ("copy" in known) is bool(of_subject and photos)
        assert ("leakage" in known) is bool(of_class and photos)
        assert ("prompt" in known) is (len(places) > len(of_class))
        for score in known.values():
            assert score.low <= score.mean <= score.high
            assert all(map(math.isfinite, (score.low, score.mean, score.high)))
        for place in range(len(specs)):
            found = scores.of_cell(row, place)
            assert bool(set(found) - {"diversity"}) <= (place in places)
            assert all(map(math.isfinite, found.values()))
    assert set(scores.references) == {one.name for one in SCORES if any(one.name in row for row in scores.rows)}

    candidates = [Candidate(f"step {row}", row, "run", row == base) for row in range(rows)]
    found = recommend(candidates, scores)
    assert found.verdict.endswith((".", "!")) and "nan" not in " ".join([found.verdict, *found.reasons])
    assert found.row is None or (found.row != base and "subject" in scores.rows[found.row])


@pytest.mark.parametrize(("of_images", "of_photos"), [(0, 0), (0, 2), (2, 0), (1, 1)])
def test_any_number_of_images_is_compared_with_any_number_of_photos(of_images: int, of_photos: int) -> None:
    found = aligned_correlation(thumbnails(images(of_images, 1)), thumbnails(images(of_photos, 2)))
    assert found.shape == (of_images, of_photos)
    assert not found.isnan().any()
    assert thumbnails(images(of_photos, 2)).shape == (of_photos, 3, SIDE, SIDE)

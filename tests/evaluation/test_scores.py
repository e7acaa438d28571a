"""From features to scores, with cosines that are computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from ldm.evaluation.encoders import ImageFeatures, extract_features, with_gaps
from ldm.evaluation.results import CLASS, OTHER, SUBJECT, PromptSpec, Reference
from ldm.evaluation.scores import SCORES, GroupScores, score_group
from tests.evaluation.test_copies import directions, thumbs


class Plane:
    """An encoder whose captions are directions: the number at their end, in degrees."""

    name = "plane"

    def __init__(self) -> None:
        self.captions: list[str] = []

    def embed_subjects(self, images: Tensor) -> Tensor:
        return directions(*(90.0 * (images[:, 0, 0, 0])).tolist())

    def embed_images(self, images: Tensor) -> Tensor:
        return directions(*(90.0 * (images[:, 1, 0, 0])).tolist())

    def embed_captions(self, captions: list[str]) -> Tensor:
        self.captions += captions
        return directions(*(float(caption.split()[-1]) for caption in captions))


SPECS = [
    PromptSpec(0, 1, SUBJECT, "a photo of sks dog 0"),
    PromptSpec(0, 2, SUBJECT, "a photo of sks dog 0"),
    PromptSpec(1, 1, SUBJECT, "a sks dog in the snow 90"),
    PromptSpec(2, 1, CLASS, "a photo of a dog 45"),
    PromptSpec(3, 1, OTHER, "a cat 30"),
]


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def row(subjects: tuple[float, ...], images: tuple[float, ...], first_thumbnail: int = 10) -> ImageFeatures:
    seeds = range(first_thumbnail, first_thumbnail + len(subjects))
    return ImageFeatures(directions(*subjects), directions(*images), thumbs(*seeds))


PHOTOS = ImageFeatures(directions(0, 20), directions(0, 40), thumbs(0, 1))
BASE = row((90, 90, 90, 80, 70), (10, 20, 90, 45, 30))
TUNED = row((10, 20, 0, 50, 70), (0, 60, 40, 15, 30), 20)


@pytest.fixture
def scores() -> GroupScores:
    return score_group(Plane(), SPECS, [BASE, TUNED], PHOTOS, base=0)


def values(scores: GroupScores, name: str, row: int = 1) -> list[float]:
    """NaN as None, so that lists can be compared."""
    return [None if value != value else value for value in scores.cells[name][row].tolist()]


def test_subject_and_leakage_are_mean_cosines_with_all_photos(scores: GroupScores) -> None:
    expected = [cos(10), (cos(20) + 1) / 2, (1 + cos(20)) / 2]
    assert values(scores, "subject") == pytest.approx([*expected, None, None], abs=1e-6)
    assert values(scores, "leakage") == pytest.approx([None, None, None, (cos(50) + cos(30)) / 2, None], abs=1e-6)
    assert scores.rows[1]["subject"].mean == pytest.approx(sum(expected) / 3, abs=1e-6)


def test_image_is_the_same_of_whole_images(scores: GroupScores) -> None:
    expected = [(1 + cos(40)) / 2, (cos(60) + cos(20)) / 2, (cos(40) + 1) / 2]
    assert values(scores, "image") == pytest.approx([*expected, None, None], abs=1e-6)


def test_prompt_is_the_cosine_with_the_prompt_without_the_identifier(scores: GroupScores) -> None:
    assert values(scores, "prompt") == pytest.approx([1, cos(60), cos(50), None, 1], abs=1e-6)
    encoder = Plane()
    score_group(encoder, SPECS, [BASE])
    assert encoder.captions[0] == "a photo of dog 0"
    assert encoder.captions[2] == "a dog in the snow 90"


def test_the_prompt_floor_is_how_the_photos_fit_the_prompts(scores: GroupScores) -> None:
    # Photos at 0 and 40 degrees; captions at 0, 0, 90 and 30.
    fits = [1, 1, 0, cos(30), cos(40), cos(40), cos(50), cos(10)]
    assert scores.prompt_floor == pytest.approx(sum(fits) / len(fits), abs=1e-6)


def test_diversity_is_the_distance_within_a_prompt(scores: GroupScores) -> None:
    assert values(scores, "diversity") == pytest.approx([1 - cos(60), 1 - cos(60), None, None, None], abs=1e-6)
    assert scores.rows[1]["diversity"].mean == pytest.approx(1 - cos(60), abs=1e-6)


def test_drift_is_the_cosine_with_the_base_models_image(scores: GroupScores) -> None:
    assert values(scores, "drift") == pytest.approx([None, None, None, cos(30), None], abs=1e-6)
    assert values(scores, "drift", row=0)[3] == pytest.approx(1)


def test_references_are_the_photos_and_the_base_row(scores: GroupScores) -> None:
    assert scores.references["subject"].ceiling == pytest.approx(cos(20), abs=1e-6)
    assert scores.references["image"].ceiling == pytest.approx(cos(40), abs=1e-6)
    assert scores.references["subject"].base == scores.rows[0]["subject"].mean
    assert scores.references["leakage"] == Reference(None, scores.rows[0]["leakage"].mean)


def test_a_copy_is_counted_and_its_photo_named() -> None:
    copying = ImageFeatures(
        TUNED.subjects, directions(0, 60, 40, 15, 30), torch.cat([thumbs(0, 30), thumbs(1, 31, 32)])
    )
    scores = score_group(Plane(), SPECS, [BASE, copying], PHOTOS, base=0)
    assert values(scores, "copy") == [1, 0, 1, None, None]
    assert values(scores, "copy_photo")[0] == 0 and values(scores, "copy_photo")[2] == 1
    assert values(scores, "copy_pixels")[0] == pytest.approx(1, abs=1e-4)
    assert values(scores, "copy_image")[2] == pytest.approx(1, abs=1e-6)
    assert scores.rows[1]["copy"].mean == pytest.approx(2 / 3)
    assert values(scores, "copy", row=0) == [0, 0, 0, None, None]


def test_every_score_is_described() -> None:
    scores = score_group(Plane(), SPECS, [BASE], PHOTOS, base=0)
    assert list(scores.cells) == [one.name for one in SCORES]
    assert list(scores.references) == [one.name for one in SCORES if not one.is_detail and one.name in scores.rows[0]]
    assert all(one.score.title and one.score.explanation for one in SCORES)


def test_a_cell_has_its_known_scores(scores: GroupScores) -> None:
    copy = {"copy", "copy_photo", "copy_image", "copy_pixels"}
    assert set(scores.of_cell(1, 0)) == {"subject", "image", "prompt", "diversity"} | copy
    assert set(scores.of_cell(1, 2)) == {"subject", "image", "prompt"} | copy
    assert set(scores.of_cell(1, 3)) == {"leakage", "drift"}
    assert set(scores.of_cell(1, 4)) == {"prompt"}


def test_without_photos_and_base_prompts_and_diversity_are_left() -> None:
    scores = score_group(Plane(), SPECS, [TUNED])
    assert set(scores.cells) == {"prompt", "diversity"}
    assert scores.prompt_floor is None
    assert scores.references["prompt"] == Reference(None, None)


def test_one_photo_has_no_ceiling() -> None:
    scores = score_group(Plane(), SPECS, [BASE, TUNED], PHOTOS.select(slice(1)), base=0)
    assert scores.references["subject"].ceiling is None
    assert values(scores, "subject")[0] == pytest.approx(cos(10), abs=1e-6)


def test_missing_images_leave_gaps(scores: GroupScores) -> None:
    some = [0, 2, 3]
    partly = with_gaps(TUNED.select(torch.tensor(some)), some, 5)
    empty = with_gaps(TUNED.select(slice(0)), [], 5)
    found = score_group(Plane(), SPECS, [BASE, partly, empty], PHOTOS, base=0)
    assert values(found, "subject")[:3] == pytest.approx(
        [values(scores, "subject")[0], None, values(scores, "subject")[2]]
    )
    assert values(found, "diversity") == [None] * 5
    assert found.of_cell(1, 1) == {}
    assert found.rows[2] == {}
    assert "diversity" not in found.rows[1]


def test_the_order_of_columns_only_orders_the_cells(scores: GroupScores) -> None:
    order = [3, 1, 4, 0, 2]
    rows = [row.select(torch.tensor(order)) for row in (BASE, TUNED)]
    found = score_group(Plane(), [SPECS[i] for i in order], rows, PHOTOS, base=0)
    for name, cells in scores.cells.items():
        assert torch.allclose(found.cells[name], cells[:, order], equal_nan=True, atol=1e-6), name
    assert found.rows[1]["subject"].low == pytest.approx(scores.rows[1]["subject"].low)


def test_features_are_the_encoders_embeddings_and_a_thumbnail() -> None:
    images = torch.zeros(2, 3, 50, 40)
    images[1] = 1.0
    found = extract_features(Plane(), images)
    assert torch.allclose(found.subjects, directions(0, 90)) and torch.allclose(found.images, directions(0, 90))
    assert found.thumbnails.shape == (2, 3, 32, 32)
    assert len(found) == 2 and found.present.all()
    spread = with_gaps(found, [2, 0], 3)
    assert spread.present.tolist() == [True, False, True]
    assert torch.equal(spread.images[2], found.images[0])

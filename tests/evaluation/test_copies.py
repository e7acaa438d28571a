"""The copy detector, on images and embeddings made by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.evaluation.alignment import SIDE, aligned_correlation
from ldm.evaluation.copies import (
    LARGEST_IMAGE,
    LARGEST_PIXELS,
    LEAST_IMAGE,
    LEAST_PIXELS,
    CopyBounds,
    copy_bounds,
    find_copies,
)
from ldm.evaluation.encoders import ImageFeatures, with_gaps


def directions(*degrees: float) -> Tensor:
    """Unit vectors in a plane: the cosine of two is that of the angle between them."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def thumbs(*seeds: int) -> Tensor:
    """Soft images that have nothing in common."""
    dice = [torch.Generator().manual_seed(seed) for seed in seeds]
    small = torch.stack([torch.rand(3, 8, 8, generator=one) * 2 - 1 for one in dice])
    return F.interpolate(small, (SIDE, SIDE), mode="bilinear")


def features(images: Tensor, thumbnails: Tensor) -> ImageFeatures:
    return ImageFeatures(images, images, thumbnails)


PHOTOS = features(directions(0, 30, 60), thumbs(0, 1, 2))
"""Neighbours have a cosine of 0.866, and nothing in common as pixels."""


def listed(bounds: CopyBounds) -> list[float]:
    """Those of the embedding, by photo, and then those of the pixels."""
    return [*bounds.image.tolist(), *bounds.pixels.tolist()]


def test_bounds_are_the_nearness_of_the_photos_to_each_other() -> None:
    photos = features(directions(0, 30, 50), PHOTOS.thumbnails)
    expected = [cos(30), cos(20), cos(20)] + [LEAST_PIXELS] * 3
    assert listed(copy_bounds(photos, None)) == pytest.approx(expected, abs=1e-5)


def test_the_base_models_nearness_counts_too() -> None:
    base = features(directions(80), 0.58 * thumbs(1) + 0.42 * thumbs(7))
    near = aligned_correlation(base.thumbnails, PHOTOS.thumbnails)[0, 1].item()
    assert 0.72 < near < 0.8
    expected = [cos(30), cos(30), cos(20), LEAST_PIXELS, (1 + near) / 2, LEAST_PIXELS]
    assert listed(copy_bounds(PHOTOS, base)) == pytest.approx(expected, abs=1e-5)


def test_nearly_equal_photos_do_not_switch_the_detector_off() -> None:
    twins = features(directions(0, 1, 31), thumbs(0, 0, 1))
    expected = [LARGEST_IMAGE] * 2 + [cos(30)] + [LARGEST_PIXELS] * 2 + [LEAST_PIXELS]
    assert listed(copy_bounds(twins, None)) == pytest.approx(expected, abs=1e-5)


def test_different_photos_do_not_make_everything_a_copy() -> None:
    strangers = features(directions(0, 90), thumbs(0, 1))
    assert listed(copy_bounds(strangers, None)) == pytest.approx([LEAST_IMAGE] * 2 + [LEAST_PIXELS] * 2)


def test_one_photo_alone_has_fixed_bounds_and_with_a_base_model_measured_ones() -> None:
    photo = features(directions(0), thumbs(0))
    assert listed(copy_bounds(photo, None)) == pytest.approx([LARGEST_IMAGE, LARGEST_PIXELS])
    assert listed(copy_bounds(photo, features(directions(30), thumbs(5))))[0] == pytest.approx(cos(30), abs=1e-5)


def test_a_base_row_without_images_counts_as_none() -> None:
    empty = with_gaps(features(directions(0)[:0], thumbs(0)[:0]), [], 2)
    assert listed(copy_bounds(PHOTOS, empty)) == listed(copy_bounds(PHOTOS, None))
    photo = features(directions(0), thumbs(0))
    assert listed(copy_bounds(photo, empty)) == listed(copy_bounds(photo, None))


def test_a_copy_passes_both_bounds_of_the_same_photo() -> None:
    images = features(directions(29, 29, 45, 29), torch.cat([thumbs(1).flip(-1), thumbs(9), thumbs(1), thumbs(0)]))
    found = find_copies(images, PHOTOS, copy_bounds(PHOTOS, None))
    # Near in both; as pixels nothing; the embedding between two; the pixels of one photo with the embedding of another.
    assert found.is_copy.tolist() == [1.0, 0.0, 1.0, 1.0]
    strict = find_copies(images, PHOTOS, CopyBounds(torch.full((3,), 0.98), torch.full((3,), 0.8)))
    assert strict.is_copy.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert strict.photo[0] == 1.0
    assert strict.image[0].item() == pytest.approx(cos(1), abs=1e-5)
    assert strict.pixels[0].item() == pytest.approx(1.0, abs=1e-5)


def test_missing_images_have_no_values() -> None:
    images = with_gaps(features(directions(30), thumbs(1)), [2], 4)
    found = find_copies(images, PHOTOS, copy_bounds(PHOTOS, None))
    assert found.is_copy.isnan().tolist() == [True, True, False, True]
    assert (found.is_copy[2], found.photo[2]) == (1.0, 1.0)

"""What is a copy, on pictures and embeddings made by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.evaluation.alignment import SIDE
from ldm.evaluation.copies import LARGEST_IMAGE, LARGEST_PIXELS, LEAST_PIXELS, CopyBounds, copy_bounds, find_copies
from ldm.evaluation.seeing import Seen, with_gaps


def directions(*degrees: float) -> Tensor:
    """Unit vectors in a plane: the cosine of two is that of the angle between them."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def thumbs(*seeds: int) -> Tensor:
    """Soft pictures that have nothing in common."""
    dice = [torch.Generator().manual_seed(seed) for seed in seeds]
    small = torch.stack([torch.rand(3, 8, 8, generator=one) * 2 - 1 for one in dice])
    return F.interpolate(small, (SIDE, SIDE), mode="bilinear")


def seen(images: Tensor, thumbnails: Tensor) -> Seen:
    return Seen(images, images, thumbnails)


PHOTOS = seen(directions(0, 30, 60), thumbs(0, 1, 2))
"""Neighbours have a cosine of 0.866, and nothing in common as pixels."""


def test_bounds_are_the_photos_own_nearness() -> None:
    bounds = copy_bounds(PHOTOS, None)
    assert bounds.image == pytest.approx(math.cos(math.radians(30)), abs=1e-5)
    assert bounds.pixels == LEAST_PIXELS


def test_the_base_models_nearness_counts_too() -> None:
    near = 0.8 * thumbs(1) + 0.2 * thumbs(7)
    base = seen(directions(80), near)
    bounds = copy_bounds(PHOTOS, base)
    assert bounds.image == pytest.approx(math.cos(math.radians(20)), abs=1e-5)
    assert LEAST_PIXELS < bounds.pixels <= LARGEST_PIXELS


def test_photos_that_are_nearly_the_same_do_not_switch_the_detector_off() -> None:
    twins = seen(directions(0, 1), thumbs(0, 0))
    assert copy_bounds(twins, None) == CopyBounds(LARGEST_IMAGE, LARGEST_PIXELS)


def test_one_photo_alone_has_fixed_bounds_and_with_a_base_model_measured_ones() -> None:
    photo = seen(directions(0), thumbs(0))
    assert copy_bounds(photo, None) == CopyBounds(LARGEST_IMAGE, LARGEST_PIXELS)
    assert copy_bounds(photo, seen(directions(60), thumbs(5))).image == pytest.approx(0.5, abs=1e-5)


def test_a_base_row_without_pictures_is_none() -> None:
    empty = with_gaps(seen(directions(0)[:0], thumbs(0)[:0]), [], 2)
    assert copy_bounds(PHOTOS, empty) == copy_bounds(PHOTOS, None)


def test_a_copy_is_near_in_both_ways_and_to_the_same_photo() -> None:
    pictures = seen(
        directions(29, 29, 45, 29),
        torch.cat([thumbs(1).flip(-1), thumbs(9), thumbs(1), thumbs(0)]),
    )
    found = find_copies(pictures, PHOTOS, copy_bounds(PHOTOS, None))
    # Near in both; as pixels nothing; the embedding between two; the pixels of one photo with the embedding of another.
    assert found.is_copy.tolist() == [1.0, 0.0, 1.0, 1.0]
    strict = find_copies(pictures, PHOTOS, CopyBounds(0.98, 0.8))
    assert strict.is_copy.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert strict.photo[0] == 1.0
    assert strict.image[0].item() == pytest.approx(math.cos(math.radians(1)), abs=1e-5)
    assert strict.pixels[0].item() == pytest.approx(1.0, abs=1e-5)


def test_pictures_that_are_not_there_are_nothing() -> None:
    pictures = with_gaps(seen(directions(30), thumbs(1)), [2], 4)
    found = find_copies(pictures, PHOTOS, copy_bounds(PHOTOS, None))
    assert found.is_copy.isnan().tolist() == [True, True, False, True]
    assert (found.is_copy[2], found.photo[2]) == (1.0, 1.0)

"""Copies that were moved, mirrored, scaled or recoloured are found again; other images aren't."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.evaluation.alignment import LARGEST_SHIFT, SCALES, SIDE, SMALLEST_OVERLAP, aligned_correlation, thumbnails


def blobs(seed: int, size: int = 128, detail: int = 8) -> Tensor:
    """An image (1 3 size size) in [-1, 1] with soft coloured blobs."""
    dice = torch.Generator().manual_seed(seed)
    return (
        F.interpolate(torch.rand(1, 3, detail, detail, generator=dice), (size, size), mode="bicubic").clamp(0, 1) * 2
        - 1
    )


def correlation(image: Tensor, photo: Tensor) -> float:
    return aligned_correlation(thumbnails(image), thumbnails(photo)).item()


def test_an_image_agrees_with_itself_and_not_with_its_negative_or_another() -> None:
    photo = blobs(0)
    assert correlation(photo, photo) == pytest.approx(1.0, abs=1e-5)
    assert correlation(-photo, photo) < 0.6
    assert max(correlation(blobs(seed), photo) for seed in range(1, 6)) < 0.6


@pytest.mark.parametrize(
    "change",
    [
        lambda photo: photo.flip(-1),
        lambda photo: photo.roll((12, -20), (-2, -1)),
        lambda photo: 0.5 * photo + 0.3,
        lambda photo: (photo + 0.2 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1),
        lambda photo: F.interpolate(photo, (140, 140), mode="bilinear")[..., 6:134, 6:134],
        lambda photo: F.interpolate(photo, (160, 160), mode="bilinear")[..., 16:144, 16:144],
        lambda photo: F.pad(F.interpolate(photo, (104, 104), mode="bilinear"), (12, 12, 12, 12)),
        lambda photo: F.interpolate(photo, (64, 64), mode="bilinear", antialias=True),
        lambda photo: F.interpolate(photo.flip(-1), (160, 160), mode="bilinear")[..., 20:148, 8:136],
    ],
    ids=["mirrored", "moved", "paler", "noisy", "nearer", "much nearer", "farther", "smaller", "all at once"],
)
def test_a_changed_copy_is_found(change) -> None:  # noqa: ANN001
    photo = blobs(0)
    assert correlation(change(photo), photo) > 0.9


def by_definition(image: Tensor, photo: Tensor) -> float:
    """Shift by shift, without a transform, of thumbnails (3 SIDE SIDE)."""
    best = -1.0
    for scale in SCALES:
        side = round(SIDE * scale)
        scaled = F.interpolate(photo[None], (side, side), mode="bilinear", antialias=True)[0]
        for top in range((SIDE - side) // 2 - LARGEST_SHIFT, (SIDE - side) // 2 + LARGEST_SHIFT + 1):
            for left in range((SIDE - side) // 2 - LARGEST_SHIFT, (SIDE - side) // 2 + LARGEST_SHIFT + 1):
                here = image[:, max(top, 0) : top + side, max(left, 0) : left + side]
                for way in (scaled, scaled.flip(-1)):
                    there = way[:, max(-top, 0) : SIDE - top, max(-left, 0) : SIDE - left]
                    if here[0].numel() < SMALLEST_OVERLAP * SIDE**2:
                        continue
                    p, q = (part - part.mean(dim=(1, 2), keepdim=True) for part in (here, there))
                    best = max(best, ((p * q).sum() / (p.square().sum() * q.square().sum()).sqrt()).item())
    return best


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_the_largest_correlation_of_all_shifts(seed: int) -> None:
    image, photo = thumbnails(blobs(0) + 0.5), thumbnails(blobs(seed, detail=4))
    assert aligned_correlation(image, photo).item() == pytest.approx(by_definition(image[0], photo[0]), abs=1e-4)


def test_flat_images_have_no_correlation() -> None:
    flat = torch.full((1, 3, 64, 64), 0.3)
    for other in (flat, blobs(0, 64)):
        assert correlation(flat, other) == 0.0
        assert correlation(other, flat) == 0.0


def test_each_image_is_compared_with_each_photo() -> None:
    images = thumbnails(torch.cat([blobs(0), blobs(1), blobs(2)]))
    photos = thumbnails(torch.cat([blobs(2), blobs(0)]))
    found = aligned_correlation(images, photos)
    assert found.shape == (3, 2)
    assert found[0].argmax() == 1 and found[2].argmax() == 0
    alone = torch.stack([aligned_correlation(one[None], photos)[0] for one in images])
    assert torch.allclose(found, alone, atol=1e-5)


def test_images_of_any_size_and_shape_become_thumbnails() -> None:
    assert thumbnails(torch.zeros(2, 3, 512, 384, dtype=torch.float16)).shape == (2, 3, SIDE, SIDE)
    assert thumbnails(torch.zeros(1, 3, 8, 8)).dtype == torch.float32

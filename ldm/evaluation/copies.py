"""Which images are copies of a photo: nearer to it than any other photo, or any image of the base model, is.

The subject alone makes an image resemble the photos, and so does chance: a horizon in the middle, a bright sky. How
much is measured for each photo: the nearness of the nearest other photo, and of the nearest image of the base model
for the same prompts. A copy of the photo must pass two bounds:

1. the cosine of the embeddings of the whole images reaches the larger of these two nearnesses;
2. the aligned correlation of the pixels reaches the middle between the larger of the two and 1.

Both bounds are clamped: chance would reach one that is too low, and nothing would reach one measured on photos that are
nearly the same. With one photo and no base model nothing can be measured; then the upper limits hold.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.evaluation.alignment import aligned_correlation
from ldm.evaluation.encoders import ImageFeatures

LEAST_IMAGE, LARGEST_IMAGE = 0.8, 0.95
"""The range of the bound on the cosine."""
LEAST_PIXELS, LARGEST_PIXELS = 0.85, 0.9
"""The range of the bound on the correlation."""


@dataclass(frozen=True)
class CopyBounds:
    """The least values of a copy of each photo: (n) each."""

    image: Tensor
    """The least cosine of `ImageFeatures.images`."""
    pixels: Tensor
    """The least aligned correlation."""


@dataclass(frozen=True)
class Nearness:
    """How near each image is to the nearest photo: (b) each; NaN where an image is missing."""

    photo: Tensor
    """The index of the nearest photo, from 0, as float."""
    image: Tensor
    """Cosine of the whole images."""
    pixels: Tensor
    """Aligned correlation."""
    is_copy: Tensor
    """1 or 0."""


def copy_bounds(photos: ImageFeatures, base: ImageFeatures | None) -> CopyBounds:
    """Measures how near `photos`, and the base model's images of the subject, are to each photo."""
    other = ~torch.eye(len(photos), dtype=torch.bool)
    image = [torch.where(other, photos.images @ photos.images.mT, -1.0)]
    pixels = [torch.where(other, aligned_correlation(photos.thumbnails, photos.thumbnails), -1.0)]
    if base is not None:
        present = base.select(base.present)
        image.append(present.images @ photos.images.mT)
        pixels.append(aligned_correlation(present.thumbnails, photos.thumbnails))
    nearest_image, nearest_pixels = (torch.cat(found).amax(dim=0) for found in (image, pixels))
    if sum(map(len, image)) == 1:  # a photo and itself
        return CopyBounds(torch.full((1,), LARGEST_IMAGE), torch.full((1,), LARGEST_PIXELS))
    halfway = (1.0 + nearest_pixels) / 2.0
    return CopyBounds(nearest_image.clamp(LEAST_IMAGE, LARGEST_IMAGE), halfway.clamp(LEAST_PIXELS, LARGEST_PIXELS))


def find_copies(images: ImageFeatures, photos: ImageFeatures, bounds: CopyBounds) -> Nearness:
    """Compares every image with every photo. The nearest photo is the one that comes nearest to being copied."""
    present = images.select(images.present)
    image = present.images @ photos.images.mT
    pixels = aligned_correlation(present.thumbnails, photos.thumbnails)
    reached = torch.minimum(image / bounds.image, pixels / bounds.pixels)
    best, photo = reached.max(dim=1)

    def spread(values: Tensor) -> Tensor:
        row = torch.full((len(images),), torch.nan, dtype=torch.float64)
        row[images.present] = values.double()
        return row

    chosen = photo[:, None]
    return Nearness(
        spread(photo),
        spread(image.gather(1, chosen)[:, 0]),
        spread(pixels.gather(1, chosen)[:, 0]),
        spread(best >= 1.0),
    )

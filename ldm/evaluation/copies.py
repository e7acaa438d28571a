"""Is an image a copy of a photo? It is if it is nearer to it than another photo, or a picture of a model that never
saw it, ever is: in what it shows as a whole, background included, and as pixels once it is laid on the photo.

The subject alone makes an image look like the photos to some degree, and so does chance: a horizon in the middle, a
bright sky. How near that brings them is measured for each photo: how near is the nearest other photo to it, and the
nearest image that the base model drew for the same prompts? For a copy of the photo

1. the cosine of the embeddings must reach the larger of the two;
2. the aligned correlation must get half of the way from the larger of the two to 1.

Both bounds are kept within limits: too low a one would be met by chance, and one that was measured on photos that are
nearly the same would be met by nothing. With a single photo and no base model there is nothing to measure: then the
upper limits hold.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.evaluation.alignment import aligned_correlation
from ldm.evaluation.features import ImageFeatures

LEAST_IMAGE, LARGEST_IMAGE = 0.8, 0.95
LEAST_PIXELS, LARGEST_PIXELS = 0.85, 0.9
"""The limits."""


@dataclass(frozen=True)
class CopyBounds:
    """From where on an image is a copy of each photo: (n) each."""

    image: Tensor
    """Of the cosine of `Seen.images`."""
    pixels: Tensor
    """Of the aligned correlation."""


@dataclass(frozen=True)
class Nearness:
    """How near each image is to the photo that it is nearest to: (b) each; NaN where there is no image."""

    photo: Tensor
    """Its index, from 0, as float."""
    image: Tensor
    """Cosine of all that both show."""
    pixels: Tensor
    """Aligned correlation."""
    is_copy: Tensor
    """1 or 0."""


def copy_bounds(photos: ImageFeatures, base: ImageFeatures | None) -> CopyBounds:
    """Measures how near `photos` are to each other, and what the base model drew of the subject to them."""
    other = ~torch.eye(len(photos), dtype=torch.bool)
    image = [torch.where(other, photos.images @ photos.images.mT, -1.0)]
    pixels = [torch.where(other, aligned_correlation(photos.thumbnails, photos.thumbnails), -1.0)]
    if base is not None:
        there = base.there
        image.append(base.images[there] @ photos.images.mT)
        pixels.append(aligned_correlation(base.thumbnails[there], photos.thumbnails))
    nearest_image, nearest_pixels = (torch.cat(found).amax(dim=0) for found in (image, pixels))
    if sum(map(len, image)) == 1:  # a photo and itself
        return CopyBounds(torch.full((1,), LARGEST_IMAGE), torch.full((1,), LARGEST_PIXELS))
    halfway = (1.0 + nearest_pixels) / 2.0
    return CopyBounds(nearest_image.clamp(LEAST_IMAGE, LARGEST_IMAGE), halfway.clamp(LEAST_PIXELS, LARGEST_PIXELS))


def find_copies(images: ImageFeatures, photos: ImageFeatures, bounds: CopyBounds) -> Nearness:
    """Compares every image with every photo. The nearest is the one that comes nearest to being copied."""
    there = images.there
    image = images.images[there] @ photos.images.mT
    pixels = aligned_correlation(images.thumbnails[there], photos.thumbnails)
    reached = torch.minimum(image / bounds.image, pixels / bounds.pixels)
    best, photo = reached.max(dim=1)

    def spread(values: Tensor) -> Tensor:
        places = torch.full((len(images),), torch.nan, dtype=torch.float64)
        places[there] = values.double()
        return places

    chosen = photo[:, None]
    return Nearness(
        spread(photo),
        spread(image.gather(1, chosen)[:, 0]),
        spread(pixels.gather(1, chosen)[:, 0]),
        spread(best >= 1.0),
    )

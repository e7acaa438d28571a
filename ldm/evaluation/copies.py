"""Is a picture a copy of a photo? It is if it is nearer to one than two photos, or a picture of a model that never saw
them, ever are: in what it shows as a whole, background included, and as pixels once it is laid on the photo.

The subject alone makes a picture look like the photos to some degree, and so does chance: a horizon in the middle, a
bright sky. How near that brings them is measured, on two references: each photo and its nearest other photo, and each
picture of the base model and its nearest photo. Then, for one and the same photo,

1. the embeddings' cosine must reach the references' largest, but no more than `LARGEST_IMAGE` is asked for, since two
   photos may be nearly the same;
2. the aligned correlation must get half of the way from the references' largest to 1: at least `LEAST_PIXELS`, at most
   `LARGEST_PIXELS`.

With a single photo and no base model there is no reference: then the least and largest values of both are asked for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.evaluation.alignment import aligned_correlation
from ldm.evaluation.seeing import Seen

LARGEST_IMAGE = 0.95
LEAST_PIXELS, LARGEST_PIXELS = 0.8, 0.9


@dataclass(frozen=True)
class CopyBounds:
    """From where on a picture is a copy."""

    image: float
    """Of the cosine of `Seen.images`."""
    pixels: float
    """Of the aligned correlation."""


@dataclass(frozen=True)
class Nearness:
    """How near each picture is to the photo that it is nearest to: (b) each; NaN where there is no picture."""

    photo: Tensor
    """Its index, from 0, as float."""
    image: Tensor
    """Cosine of all that both show."""
    pixels: Tensor
    """Aligned correlation."""
    is_copy: Tensor
    """1 or 0."""


def copy_bounds(photos: Seen, base: Seen | None) -> CopyBounds:
    """Measures the references: `photos` among themselves, and what the base model drew of the subject."""
    image, pixels = [], []
    if len(photos) > 1:
        others = ~torch.eye(len(photos), dtype=torch.bool)
        image.append((photos.images @ photos.images.mT)[others].max().item())
        pixels.append(aligned_correlation(photos.thumbnails, photos.thumbnails)[others].max().item())
    if base is not None and bool(base.there.any()):
        there = base.there
        image.append((base.images[there] @ photos.images.mT).max().item())
        pixels.append(aligned_correlation(base.thumbnails[there], photos.thumbnails).max().item())
    if not image:
        return CopyBounds(LARGEST_IMAGE, LARGEST_PIXELS)
    halfway = (1.0 + max(pixels)) / 2.0
    return CopyBounds(min(max(image), LARGEST_IMAGE), min(max(halfway, LEAST_PIXELS), LARGEST_PIXELS))


def find_copies(pictures: Seen, photos: Seen, bounds: CopyBounds) -> Nearness:
    """Compares every picture with every photo. The nearest is the one that comes nearest to being copied."""
    there = pictures.there
    image = pictures.images[there] @ photos.images.mT
    pixels = aligned_correlation(pictures.thumbnails[there], photos.thumbnails)
    reached = torch.minimum(image / bounds.image, pixels / bounds.pixels)
    best, photo = reached.max(dim=1)

    def spread(values: Tensor) -> Tensor:
        places = torch.full((len(pictures),), torch.nan, dtype=torch.float64)
        places[there] = values.double()
        return places

    chosen = photo[:, None]
    return Nearness(
        spread(photo),
        spread(image.gather(1, chosen)[:, 0]),
        spread(pixels.gather(1, chosen)[:, 0]),
        spread(best >= 1.0),
    )

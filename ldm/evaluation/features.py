"""What is kept of images for their scores: a few hundred numbers each, so that thousands can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.evaluation.alignment import thumbnails
from ldm.evaluation.encoders import Encoder


@dataclass(frozen=True)
class ImageFeatures:
    """Images as an encoder sees them. All numbers of an image that isn't there are NaN."""

    subjects: Tensor
    """Unit vectors (b d) of the things in them: `Encoder.embed_subjects`."""
    images: Tensor
    """Unit vectors (b e) of all that they show: `Encoder.embed_images`."""
    thumbnails: Tensor
    """(b 3 SIDE SIDE) in [-1, 1]: `alignment.thumbnails`."""

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def there(self) -> Tensor:
        """(b) bool: which images there are."""
        return ~self.subjects.isnan().any(dim=1)


def see(encoder: Encoder, images: Tensor) -> ImageFeatures:
    """What is kept of images (b 3 h w) in [-1, 1]."""
    return ImageFeatures(encoder.embed_subjects(images), encoder.embed_images(images), thumbnails(images))


def with_gaps(seen: ImageFeatures, columns: Sequence[int], count: int) -> ImageFeatures:
    """The images at their places, `columns`, among `count` places; the others are empty."""

    def spread(values: Tensor) -> Tensor:
        places = values.new_full((count, *values.shape[1:]), torch.nan)
        places[torch.tensor(columns, dtype=torch.int64)] = values
        return places

    return ImageFeatures(spread(seen.subjects), spread(seen.images), spread(seen.thumbnails))

"""What is kept of pictures for their scores: a few hundred numbers each, so that thousands can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.evaluation.alignment import thumbnails
from ldm.evaluation.encoders import Encoder


@dataclass(frozen=True)
class Seen:
    """Pictures as an encoder sees them. All numbers of a picture that isn't there are NaN."""

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
        """(b) bool: which pictures there are."""
        return ~self.subjects.isnan().any(dim=1)


def see(encoder: Encoder, images: Tensor) -> Seen:
    """What is kept of pictures (b 3 h w) in [-1, 1]."""
    return Seen(encoder.embed_subjects(images), encoder.embed_images(images), thumbnails(images))


def with_gaps(seen: Seen, columns: Sequence[int], count: int) -> Seen:
    """The pictures at their places, `columns`, among `count` places; the others are empty."""

    def spread(values: Tensor) -> Tensor:
        places = values.new_full((count, *values.shape[1:]), torch.nan)
        places[torch.tensor(columns, dtype=torch.int64)] = values
        return places

    return Seen(spread(seen.subjects), spread(seen.images), spread(seen.thumbnails))

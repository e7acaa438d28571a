"""The contrastive losses: by hand, and at their best and worst."""

import math

import pytest
import torch
import torch.nn.functional as F

from ldm.training.judge import caption_loss, pair_loss


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_caption_loss_by_hand() -> None:
    images, captions, scale = unit(4, 3), unit(4, 3, seed=1), torch.tensor(5.0)
    total = 0.0
    for i in range(4):
        to_captions = [math.exp(5.0 * float(images[i] @ captions[j])) for j in range(4)]
        to_images = [math.exp(5.0 * float(images[j] @ captions[i])) for j in range(4)]
        total -= math.log(to_captions[i] / sum(to_captions)) + math.log(to_images[i] / sum(to_images))
    assert caption_loss(images, captions, scale).item() == pytest.approx(total / 8, rel=1e-5)


def test_the_pair_loss_by_hand() -> None:
    first, second = unit(3, 4), unit(3, 4, seed=1)
    photographs, twins = [*first, *second], [3, 4, 5, 0, 1, 2]
    total = 0.0
    for i, photograph in enumerate(photographs):
        weights = [math.exp(float(photograph @ other) / 0.2) for other in photographs]
        total -= math.log(weights[twins[i]] / (sum(weights) - weights[i]))
    assert pair_loss(first, second, temperature=0.2).item() == pytest.approx(total / 6, rel=1e-5)


def test_what_belongs_together_costs_least_together() -> None:
    vectors = torch.eye(8)
    swapped = vectors.roll(1, dims=0)
    scale = torch.tensor(50.0)
    assert caption_loss(vectors, vectors, scale) < 1e-6 < caption_loss(vectors, swapped, scale)
    assert pair_loss(vectors, vectors, 0.02) < 1e-6 < pair_loss(vectors, swapped, 0.02)
    alike = vectors[:1].expand(8, 8)
    assert caption_loss(alike, alike, scale).item() == pytest.approx(math.log(8))
    assert pair_loss(alike, alike, 0.02).item() == pytest.approx(math.log(15))

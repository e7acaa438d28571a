"""Degradations: what they change in an image, and what they keep."""

import pytest
import torch

from ldm.data import degradation
from ldm.data.degradation import add_noise, blur, coarsen, degrade, recolour, reframe, shrink
from ldm.toyworld import random_scene, render

ALL = (reframe, blur, shrink, coarsen, recolour, add_noise)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return render([random_scene(0, index) for index in range(8)], 32)


def roughness(images: torch.Tensor) -> torch.Tensor:
    """Mean difference of neighbours."""
    return images.diff(dim=-1).abs().mean()


@pytest.mark.parametrize("change", [degrade, *ALL])
def test_a_degradation_depends_on_the_generator_and_keeps_its_input(change: degradation.Degradation) -> None:
    images = torch.rand(6, 3, 32, 32, generator=generator()) * 2 - 1
    before = images.clone()
    first = change(images, generator(1))
    assert first.shape == images.shape and first.dtype == torch.float32
    assert torch.equal(images, before)
    assert torch.equal(first, change(images, generator(1)))
    assert not torch.equal(first, change(images, generator(2)))
    assert not torch.equal(first, images)


def test_images_stay_what_they_are(images: torch.Tensor) -> None:
    batch = images.repeat(16, 1, 1, 1)
    changed = degrade(batch, generator())
    assert changed.abs().max() <= 1
    assert len(changed.flatten(1).unique(dim=0)) == len(batch)
    straight, mirrored = ((changed - other).abs().mean((1, 2, 3)) for other in (batch, batch.flip(-1)))
    assert torch.minimum(straight, mirrored).max() < 0.3
    share = (mirrored < straight).float().mean()
    assert 0.3 < share < 0.7


@pytest.mark.parametrize("change", [blur, shrink, coarsen, reframe])
def test_one_colour_stays_one_colour(change: degradation.Degradation) -> None:
    images = torch.tensor([0.25, -0.5, 0.75])[None, :, None, None].expand(2, 3, 32, 32)
    changed = change(images, generator())
    assert torch.allclose(changed, images, atol=0.05)
    assert torch.allclose(changed, changed[:, :, :1, :1].expand_as(changed), atol=1e-5)


@pytest.mark.parametrize("change", [blur, shrink])
def test_degradations_remove_detail(images: torch.Tensor, change: degradation.Degradation) -> None:
    assert all(roughness(change(images, generator(seed))) < 0.97 * roughness(images) for seed in range(5))


def test_a_wider_blur_is_softer(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    softness = []
    for deviation in (0.4, 0.8, 1.6):
        monkeypatch.setattr(degradation, "BLUR", (deviation, deviation))
        softness.append(roughness(blur(images, generator())))
    assert softness[0] > softness[1] > softness[2]


def test_fine_steps_lose_nothing_and_coarse_ones_the_finest_detail(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(degradation, "COARSENESS", (1e-6, 1e-6))
    assert torch.allclose(coarsen(images, generator()), images, atol=1e-4)
    monkeypatch.setattr(degradation, "COARSENESS", (0.1, 0.1))
    board = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(16, 16).expand(1, 3, 32, 32)
    assert coarsen(board, generator()).abs().max() < 0.1 * board.abs().max()


def test_noise_and_colours_have_their_strength() -> None:
    grey = torch.zeros(64, 3, 32, 32)
    strengths = add_noise(grey, generator()).std(dim=(1, 2, 3))
    assert strengths.max() < degradation.NOISE[1] * 1.05 and strengths.min() < 0.02
    tints = recolour(grey, generator())
    assert torch.equal(tints, tints[:, :, :1, :1].expand_as(tints))
    assert 0.9 * degradation.OFFSET < tints.abs().max() <= degradation.OFFSET

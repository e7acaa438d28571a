"""Principal components of patches: whitened codes, and no linear code of as many numbers keeps more."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ldm.training.autoencoder import PatchPCA


def random_images(count: int = 24, side: int = 16) -> Tensor:
    """Smooth random images (n 3 h w) in [-1, 1], whose patches have components of very different size."""
    coarse = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(side, side), mode="bicubic").tanh()


def patches_of(images: Tensor, patch: int) -> Tensor:
    return rearrange(images, "b c (h i) (w j) -> (b h w) (c i j)", i=patch, j=patch)


@pytest.mark.parametrize(("patch", "channels"), [(2, 4), (4, 4), (4, 8), (2, 12)])
def test_codes_have_zero_mean_unit_variance_and_are_uncorrelated(patch: int, channels: int) -> None:
    images = random_images()
    pca = PatchPCA(patch, channels)
    pca.fit(images)
    codes = pca(images)
    assert codes.shape == (24, channels, 16 // patch, 16 // patch)
    flat = rearrange(codes, "b c h w -> c (b h w)").double()
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(channels).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(flat.cov(correction=0), torch.eye(channels).double(), atol=5e-3, rtol=0)


@pytest.mark.parametrize(("patch", "channels"), [(2, 4), (4, 6)])
def test_it_is_the_best_linear_code(patch: int, channels: int) -> None:
    """Eckart and Young: no code of this size leaves less error than the truncated SVD."""
    images = random_images()
    pca = PatchPCA(patch, channels)
    pca.fit(images)
    patches = patches_of(images, patch).double()
    centred = patches - patches.mean(dim=0)
    singular = torch.linalg.svdvals(centred)
    least = singular[channels:].square().sum().item()
    codes = rearrange(pca(images), "b c h w -> (b h w) c").double()
    decoded = codes @ torch.linalg.lstsq(codes, centred).solution
    assert (centred - decoded).square().sum().item() == pytest.approx(least, rel=1e-3)


def test_a_codes_place_is_its_patchs() -> None:
    images = random_images()
    pca = PatchPCA(4, 4)
    pca.fit(images)
    moved = images.roll((4, 8), dims=(2, 3))
    torch.testing.assert_close(pca(moved), pca(images).roll((1, 2), dims=(2, 3)))


def test_images_need_not_be_square() -> None:
    pca = PatchPCA(4, 4)
    pca.fit(random_images())
    assert pca(torch.zeros(2, 3, 8, 20)).shape == (2, 4, 2, 5)


def test_flat_images_have_finite_codes() -> None:
    """Their patches have components without any variance."""
    pca = PatchPCA(2, 4)
    flat = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 8, 8)
    pca.fit(flat)
    assert pca(flat).isfinite().all()
    assert pca(random_images()).isfinite().all()


def test_all_is_zero_before_it_has_seen_an_image() -> None:
    pca = PatchPCA(2, 4)
    assert not pca.fitted
    assert not pca(random_images()).any()
    pca.fit(random_images())
    assert pca.fitted


def test_its_state_is_kept() -> None:
    pca, other = PatchPCA(2, 4), PatchPCA(2, 4)
    pca.fit(random_images())
    other.load_state_dict(pca.state_dict())
    assert other.fitted
    assert torch.equal(other(random_images()), pca(random_images()))

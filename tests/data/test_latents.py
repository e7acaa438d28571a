"""Encoded images: in memory, in a file and its name, and the scale factor measured on them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.data.captioned import find_captioned
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.data.latents import encode_moments, latents_key, measure_scale_factor, moments_at, open_moments, write_moments
from ldm.errors import UserError
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL, DiagonalGaussian
from tests.scratch import write_captioned
from tests.tiny import build_tiny_model


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, num_groups=4)).eval()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """More than are encoded at a time."""
    return [image.path for image in find_captioned(write_captioned(tmp_path / "pictures", 19))]


@pytest.mark.parametrize("flip", [False, True])
@torch.no_grad()
def test_the_file_holds_each_image_as_encoded_alone(
    flip: bool, autoencoder: AutoencoderKL, paths: list[Path], tmp_path: Path
) -> None:
    write_moments(tmp_path / "latents" / "a.npy", autoencoder, paths, 16, flip)
    moments = open_moments(tmp_path / "latents" / "a.npy")
    assert moments.shape == (19, 1 + flip, 8, 8, 8)
    assert moments.dtype == np.float16
    for index, path in enumerate(paths):
        image = to_tensor(fit_image(read_image(path), 16, 16))
        for view in range(1 + flip):
            shown = image.flip(-1) if view else image
            expected = autoencoder.encode(shown[None]).parameters[0]
            found = moments_at(moments, index, view)
            assert found.dtype == torch.float32
            # Half precision has 11 bits.
            torch.testing.assert_close(found, expected, rtol=2**-11, atol=1e-5)


def test_the_file_is_written_whole(autoencoder: AutoencoderKL, paths: list[Path], tmp_path: Path) -> None:
    paths[17].write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{paths[17].name} is not a readable image"):
        write_moments(tmp_path / "latents" / "a.npy", autoencoder, paths, 16, flip=False)
    assert not list((tmp_path / "latents").iterdir())


def test_the_file_is_memory_mapped(autoencoder: AutoencoderKL, paths: list[Path], tmp_path: Path) -> None:
    write_moments(tmp_path / "a.npy", autoencoder, paths[:2], 16, flip=False)
    assert isinstance(open_moments(tmp_path / "a.npy"), np.memmap)


@pytest.mark.parametrize("value", [torch.nan, 1e6])
def test_latents_that_overflow_are_the_users_error(value: float, paths: list[Path], tmp_path: Path) -> None:
    broken = AutoencoderKL(AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, num_groups=4))
    torch.nn.init.constant_(broken.quant_conv.bias, value)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"0\.png to 15\.png are not finite in half precision"):
        write_moments(tmp_path / "a.npy", broken, paths, 16, flip=False)
    assert not (tmp_path / "a.npy").exists()


# In memory


@pytest.fixture(scope="module")
def tiny_autoencoder() -> AutoencoderKL:
    return build_tiny_model().autoencoder.eval()


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def parameters(autoencoder: AutoencoderKL, image: Tensor) -> Tensor:
    return autoencoder.encode(image[None]).parameters[0]


def test_moments_are_those_of_each_image_and_its_mirror_image(tiny_autoencoder: AutoencoderKL, photos: Tensor) -> None:
    moments = encode_moments(tiny_autoencoder, photos, flip=True)
    assert moments.shape == (3, 2, 8, 4, 6)
    for views, photo in zip(moments, photos, strict=True):
        assert torch.equal(views[0], parameters(tiny_autoencoder, photo))
        assert torch.equal(views[1], parameters(tiny_autoencoder, photo.flip(-1)))
        assert not torch.equal(views[0], views[1])


def test_without_flipping_there_is_one_view(tiny_autoencoder: AutoencoderKL, photos: Tensor) -> None:
    moments = encode_moments(tiny_autoencoder, photos, flip=False)
    assert moments.shape == (3, 1, 8, 4, 6)
    assert torch.equal(moments, encode_moments(tiny_autoencoder, photos, flip=True)[:, :1])


def test_an_images_moments_do_not_depend_on_its_neighbours(tiny_autoencoder: AutoencoderKL, photos: Tensor) -> None:
    together = encode_moments(tiny_autoencoder, photos, flip=True)
    for order in ([0], [2, 0], [1, 1, 2, 0]):
        assert torch.equal(encode_moments(tiny_autoencoder, photos[order], flip=True), together[order])


@pytest.mark.parametrize("flip", [True, False])
def test_a_larger_batch_gives_the_same_but_for_rounding(
    flip: bool, tiny_autoencoder: AutoencoderKL, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    singly = encode_moments(tiny_autoencoder, photos, flip)
    sizes, encode = [], tiny_autoencoder.encode
    monkeypatch.setattr(tiny_autoencoder, "encode", lambda images: sizes.append(len(images)) or encode(images))
    together = encode_moments(tiny_autoencoder, iter(photos), flip, batch_size=2)
    assert sizes == ([2, 2, 2] if flip else [2, 1])
    torch.testing.assert_close(together, singly, rtol=1e-5, atol=1e-5)


def test_moments_of_a_half_precision_autoencoder_are_float32(photos: Tensor) -> None:
    autoencoder = build_tiny_model().autoencoder.eval().bfloat16()
    moments = encode_moments(autoencoder, photos, flip=False)
    assert moments.dtype == torch.float32
    assert torch.equal(moments[0, 0], parameters(autoencoder, photos[0].bfloat16()).float())


# The name


def key(paths: list[Path], sha256: str = "abc", size: int = 16, flip: bool = True, precision: str = "float32") -> str:
    return latents_key(sha256, paths, paths[0].parent, size, flip, precision)


def test_files_that_have_moved_have_the_same_name(paths: list[Path], tmp_path: Path) -> None:
    before = key(paths)
    moved = Path(shutil.move(paths[0].parent, tmp_path / "elsewhere"))
    assert key([moved / path.name for path in paths]) == before


def test_other_weights_sizes_views_and_files_have_other_names(paths: list[Path]) -> None:
    keys = [
        key(paths),
        key(paths, sha256="abd"),
        key(paths, size=32),
        key(paths, flip=False),
        key(paths, precision="bfloat16"),
        key(paths[1:]),
        key(paths[::-1]),
    ]
    os.utime(paths[0], (1, 1))
    keys.append(key(paths))
    assert len(set(keys)) == len(keys)


# The scale factor


def test_the_scale_factor_gives_sampled_latents_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = 3.0 + 2.5 * torch.randn(200, 1, 4, 8, 8, generator=generator)
    logvar = torch.randn(200, 1, 4, 8, 8, generator=generator)
    moments = torch.cat([mean, logvar], dim=2).half().numpy()
    scale = measure_scale_factor(moments)
    noise = torch.randn(200, 4, 8, 8, generator=generator)
    latents = scale * DiagonalGaussian(torch.from_numpy(moments[:, 0]).float()).sample(noise)
    assert latents.var().item() == pytest.approx(1.0, rel=0.02)


def test_the_scale_factor_by_hand() -> None:
    """Means 1 and 4 have variance 4.5, both have a standard deviation of 2: 1 / sqrt(4.5 + 4)."""
    moments = np.zeros((2, 1, 2, 1, 1), np.float32)
    moments[:, 0, 0, 0, 0] = 1.0, 4.0
    moments[:, 0, 1, 0, 0] = np.log(4.0)
    assert measure_scale_factor(moments) == pytest.approx(8.5**-0.5)


def test_the_scale_factor_is_measured_on_the_first_images_and_not_mirrored_ones() -> None:
    moments = np.random.default_rng(0).normal(size=(6, 2, 8, 4, 4)).astype(np.float16)
    expected = measure_scale_factor(moments, count=4)
    moments[:, 1] = 100.0
    moments[4:] = 100.0
    assert measure_scale_factor(moments, count=4) == expected

"""Latents encoded beforehand: what the file holds, what it is named after, and the scale factor measured on it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.data.captioned import find_captioned
from ldm.data.images import fit, read_image, to_tensor
from ldm.data.latents import latents_key, measure_scale_factor, moments_at, open_moments, write_moments
from ldm.errors import UserError
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL, DiagonalGaussian
from tests.scratch import write_captioned


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
        image = to_tensor(fit(read_image(path), 16, 16))
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


def test_only_what_is_looked_at_is_read(autoencoder: AutoencoderKL, paths: list[Path], tmp_path: Path) -> None:
    write_moments(tmp_path / "a.npy", autoencoder, paths[:2], 16, flip=False)
    assert isinstance(open_moments(tmp_path / "a.npy"), np.memmap)


@pytest.mark.parametrize("value", [torch.nan, 1e6])
def test_latents_that_overflow_are_the_users_error(value: float, paths: list[Path], tmp_path: Path) -> None:
    broken = AutoencoderKL(AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, num_groups=4))
    torch.nn.init.constant_(broken.quant_conv.bias, value)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"0\.png to 15\.png are not finite in half precision"):
        write_moments(tmp_path / "a.npy", broken, paths, 16, flip=False)
    assert not (tmp_path / "a.npy").exists()


# The name


def test_the_same_files_have_the_same_name(paths: list[Path]) -> None:
    assert latents_key("abc", paths, 16, True, "float32") == latents_key("abc", list(paths), 16, True, "float32")


def test_other_weights_sizes_views_and_files_have_other_names(paths: list[Path]) -> None:
    keys = [
        latents_key("abc", paths, 16, True, "float32"),
        latents_key("abd", paths, 16, True, "float32"),
        latents_key("abc", paths, 32, True, "float32"),
        latents_key("abc", paths, 16, False, "float32"),
        latents_key("abc", paths, 16, True, "bfloat16"),
        latents_key("abc", paths[1:], 16, True, "float32"),
        latents_key("abc", paths[::-1], 16, True, "float32"),
    ]
    os.utime(paths[0], (1, 1))
    keys.append(latents_key("abc", paths, 16, True, "float32"))
    assert len(set(keys)) == len(keys)


# The scale factor


def test_the_scale_factor_gives_drawn_latents_unit_variance() -> None:
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


def test_the_scale_factor_looks_at_straight_views_of_the_first_images_only() -> None:
    moments = np.random.default_rng(0).normal(size=(6, 2, 8, 4, 4)).astype(np.float16)
    expected = measure_scale_factor(moments, count=4)
    moments[:, 1] = 100.0
    moments[4:] = 100.0
    assert measure_scale_factor(moments, count=4) == expected

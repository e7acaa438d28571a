"""The autoencoder: the original's numbers, its posterior and its geometry."""

from dataclasses import replace

import pytest
import torch

from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL, DiagonalGaussian
from tests.oracle import (
    BOUND,
    BOUND_F64,
    autoencoder_config,
    new_autoencoder,
    rel,
    small_autoencoder,
    tensors,
    transposed,
)


@torch.inference_mode()
def test_encoded_moments_are_the_originals() -> None:
    io = tensors("vae-small-io")
    posterior = small_autoencoder().encode(io["image"])
    assert rel(posterior.parameters, io["moments"]) < BOUND
    assert rel(posterior.parameters, io["moments_f64"]) < BOUND
    assert rel(posterior.mean, io["mean"]) < BOUND
    assert rel(posterior.logvar, io["logvar"]) < BOUND
    assert rel(posterior.std, io["std"]) < BOUND
    assert rel(posterior.sample(io["noise"]), io["sample"]) < BOUND
    assert rel(posterior.kl(), io["kl"]) < BOUND


@torch.inference_mode()
def test_decoded_images_are_the_originals() -> None:
    io = tensors("vae-small-io")
    decoded = small_autoencoder().decode(io["latent"])
    assert rel(decoded, io["decoded"]) < BOUND
    assert rel(decoded, io["decoded_f64"]) < BOUND


@torch.inference_mode()
def test_both_directions_in_float64_are_the_originals() -> None:
    io, autoencoder = tensors("vae-small-io"), small_autoencoder(torch.float64)
    assert rel(autoencoder.encode(io["image"].double()).parameters, io["moments_f64"]) < BOUND_F64
    assert rel(autoencoder.decode(io["latent"].double()), io["decoded_f64"]) < BOUND_F64


def test_posterior_of_large_numbers_is_clamped_as_the_originals() -> None:
    io = tensors("vae-small-io")
    posterior = DiagonalGaussian(io["dist_moments"])
    assert io["dist_moments"][:, 4:].min() < -30
    assert io["dist_moments"][:, 4:].max() > 20
    assert torch.equal(posterior.mean, io["dist_mean"])
    assert torch.equal(posterior.logvar, io["dist_logvar"])
    torch.testing.assert_close(posterior.std, io["dist_std"], rtol=1e-6, atol=0)
    assert rel(posterior.sample(io["dist_noise"]), io["dist_sample"]) < 1e-6


def test_kl_is_torchs_summed_per_image() -> None:
    parameters = torch.randn(3, 8, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = DiagonalGaussian(parameters)
    q = torch.distributions.Normal(posterior.mean, posterior.std)
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(posterior.kl(), expected)


def test_a_sample_without_noise_is_the_mean() -> None:
    posterior = DiagonalGaussian(torch.arange(16.0).view(1, 8, 1, 2))
    assert torch.equal(posterior.sample(torch.zeros(1, 4, 1, 2)), torch.arange(8.0).view(1, 4, 1, 2))


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(16, 40), (40, 16)])
def test_images_need_not_be_square(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    autoencoder = small_autoencoder(torch.float64)
    sideways = transposed(new_autoencoder(torch.float64))
    image = torch.randn(1, 3, height, width, generator=generator, dtype=torch.float64)
    moments = autoencoder.encode(image).parameters
    assert moments.shape == (1, 8, height // 8, width // 8)
    torch.testing.assert_close(sideways.encode(image.transpose(2, 3)).parameters.transpose(2, 3), moments)
    latents = moments[:, :4]
    decoded = autoencoder.decode(latents)
    assert decoded.shape == image.shape
    torch.testing.assert_close(sideways.decode(latents.transpose(2, 3)).transpose(2, 3), decoded)


@torch.inference_mode()
def test_each_image_is_coded_by_itself() -> None:
    autoencoder = small_autoencoder(torch.float64)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = autoencoder.encode(images).parameters
    torch.testing.assert_close(autoencoder.encode(images[1:]).parameters, moments[1:])
    torch.testing.assert_close(autoencoder.decode(moments[1:, :4]), autoencoder.decode(moments[:, :4])[1:])


@pytest.mark.parametrize(("ch_mult", "factor"), [((1,), 1), ((1, 2), 2), ((1, 2, 4, 4), 8)])
def test_downsampling_factor_is_what_the_networks_do(ch_mult: tuple[int, ...], factor: int) -> None:
    with torch.device("meta"):
        autoencoder = AutoencoderKL(AutoencoderConfig(ch=32, ch_mult=ch_mult, num_res_blocks=1))
        assert autoencoder.config.downsampling_factor == factor
        assert autoencoder.encode(torch.empty(1, 3, 16, 32)).mean.shape == (1, 4, 16 // factor, 32 // factor)
        assert autoencoder.decode(torch.empty(1, 4, 2, 3)).shape == (1, 3, 2 * factor, 3 * factor)


@torch.inference_mode()
def test_num_groups_changes_every_normalisation_and_no_weight() -> None:
    io, config = tensors("vae-small-io"), autoencoder_config()
    assert config.num_groups == 32
    fewer = AutoencoderKL(replace(config, num_groups=8)).eval()
    fewer.load_state_dict(small_autoencoder().state_dict())
    assert {m.num_groups for m in fewer.modules() if isinstance(m, torch.nn.GroupNorm)} == {8}
    assert rel(fewer.encode(io["image"]).parameters, io["moments"]) > 100 * BOUND
    assert rel(fewer.decode(io["latent"]), io["decoded"]) > 100 * BOUND


@pytest.mark.parametrize(
    ("num_groups", "words"),
    [(0, "num_groups should be from 1"), (24, "ch should be a multiple of num_groups: 128 channels, 24 groups")],
)
def test_groups_that_do_not_divide_the_channels_are_refused(num_groups: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AutoencoderConfig(num_groups=num_groups)

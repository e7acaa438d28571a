"""From ids to images: against the original's numbers, and what `sample_images` promises."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.diffusion import sampling
from ldm.diffusion.guidance import classifier_free, guided_eps
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.noise import image_generators
from ldm.diffusion.samplers import SAMPLERS, img2img_start
from ldm.diffusion.sampling import InitImage, SamplingConfig, sample_images
from ldm.errors import UserError
from tests.each_sampler import EACH_SAMPLER
from tests.oracle import BOUND, facts, new_ldm, rel, small_ldm, tensors
from tests.tiny import build_tiny_model

SMALL = SamplingConfig(height=64, width=64, num_steps=3, guidance_scale=2.0)
ROUNDING = 1e-4
"""A batch of another size is summed in another order, which moves an image in [-1, 1] by 2e-5 on some CPUs; a grey
level is 8e-3."""


def contexts(count: int) -> tuple[Tensor, Tensor]:
    """(context, uncond_context), a different one per image and the same one for all."""
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(count, 77, 32, generator=generator)
    return context, torch.randn(1, 77, 32, generator=generator).expand(count, -1, -1)


def an_image(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def sample(seeds: list[int], config: SamplingConfig = SMALL, init: InitImage | None = None, **options: Any) -> Tensor:
    guidance = classifier_free(*contexts(len(seeds)), config.guidance_scale)
    return sample_images(options.pop("ldm", small_ldm()), guidance, seeds, config, init, **options)


@torch.inference_mode()
def test_contexts_are_the_originals() -> None:
    io, ldm = tensors("end-to-end"), small_ldm()
    assert rel(ldm.text_encoder(io["input_ids"]), io["context"]) < BOUND
    assert rel(ldm.text_encoder(io["uncond_input_ids"]), io["uncond_context"]) < BOUND


@torch.inference_mode()
@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_ids_to_latents_to_images_is_the_original(name: str) -> None:
    io, ldm, run = tensors("end-to-end"), small_ldm(), facts("end-to-end")
    context, uncond_context = ldm.text_encoder(io["input_ids"]), ldm.text_encoder(io["uncond_input_ids"])
    eps_fn = guided_eps(ldm.predictor, classifier_free(context, uncond_context, run["scale"]))
    latents = SAMPLERS[name].sample(eps_fn, io["x_T"], ldm.schedule, num_steps=run["S"])
    assert rel(latents, io[f"{name}_latent"]) < BOUND
    assert rel(ldm.decode_latents(latents), io[f"{name}_image"]) < BOUND


@torch.inference_mode()
def test_image_and_ids_to_image_is_the_original() -> None:
    io, ldm, run = tensors("end-to-end"), small_ldm(), facts("end-to-end")
    clean = ldm.sample_posterior(ldm.encode_posterior(io["init_image"]), io["posterior_noise"])
    assert rel(clean, io["init_latent"]) < BOUND
    start_step, alpha = img2img_start(SAMPLERS["ddim"], ldm.schedule, run["i2i_S"], run["strength"])
    assert start_step == run["i2i_S"] - run["t_enc"]
    latents = alpha**0.5 * clean + (1 - alpha) ** 0.5 * io["encode_noise"]
    assert rel(latents, io["img2img_start"]) < BOUND
    context, uncond_context = ldm.text_encoder(io["input_ids"]), ldm.text_encoder(io["uncond_input_ids"])
    eps_fn = guided_eps(ldm.predictor, classifier_free(context, uncond_context, run["i2i_scale"]))
    latents = SAMPLERS["ddim"].sample(eps_fn, latents, ldm.schedule, num_steps=run["i2i_S"], start_step=start_step)
    assert rel(latents, io["img2img_latent"]) < BOUND
    assert rel(ldm.decode_latents(latents), io["img2img_image"]) < BOUND


def feed_noise(monkeypatch: pytest.MonkeyPatch, *stored: Tensor) -> None:
    """Makes `sample_images` draw this noise, in this order."""
    left = list(stored)
    monkeypatch.setattr(sampling, "draw_noise", lambda shape, generators, device: left.pop(0))


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_sample_images_from_the_originals_noise_gives_its_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    io, run = tensors("end-to-end"), facts("end-to-end")
    feed_noise(monkeypatch, io["x_T"])
    config = SamplingConfig(128, 128, name, run["S"], run["scale"])
    guidance = classifier_free(io["context"], io["uncond_context"], config.guidance_scale)
    images = sample_images(small_ldm(), guidance, [0], config)
    assert rel((images + 1) / 2, (io[f"{name}_image"].clamp(-1, 1) + 1) / 2) < BOUND
    if name == "ddim":
        assert rel((images + 1) / 2, io["ddim_image_01"]) < BOUND


def test_sample_images_from_the_originals_image_and_noise_gives_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    io, run = tensors("end-to-end"), facts("end-to-end")
    feed_noise(monkeypatch, io["encode_noise"], io["posterior_noise"])
    config = SamplingConfig(128, 128, "ddim", run["i2i_S"], run["i2i_scale"])
    init = InitImage(io["init_image"][0], run["strength"])
    guidance = classifier_free(io["context"], io["uncond_context"], config.guidance_scale)
    images = sample_images(small_ldm(), guidance, [0], config, init)
    assert rel((images + 1) / 2, io["img2img_image_01"]) < BOUND


@pytest.mark.parametrize("init", [None, pytest.param(InitImage(an_image(), 0.67), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EACH_SAMPLER)
def test_an_image_depends_on_its_seed_and_context_and_not_on_its_batch(name: str, init: InitImage | None) -> None:
    config = dataclasses.replace(SMALL, sampler=name, eta=0.5)
    together = sample([3, 4, 5], config, init)
    context, uncond_context = contexts(3)
    for i, seed in enumerate([3, 4, 5]):
        one = slice(i, i + 1)
        guidance = classifier_free(context[one], uncond_context[one], config.guidance_scale)
        alone = sample_images(small_ldm(), guidance, [seed], config, init)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=ROUNDING)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_another_seed_another_context_and_another_eta_change_the_image() -> None:
    image = sample([3])
    context, uncond_context = contexts(1)
    others = [
        sample([4]),
        sample_images(small_ldm(), classifier_free(context.flip(1) * 1.5, uncond_context, 2.0), [3], SMALL),
        sample([3], dataclasses.replace(SMALL, eta=0.5)),
        sample([3], dataclasses.replace(SMALL, guidance_scale=5.0)),
    ]
    assert all((other - image).abs().max() > 1e-2 for other in others)


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64)])
def test_images_need_not_be_square(height: int, width: int) -> None:
    config = dataclasses.replace(SMALL, height=height, width=width)
    assert sample([0, 1], config).shape == (2, 3, height, width)
    assert sample([0], config, InitImage(an_image(height, width), 0.5)).shape == (1, 3, height, width)


def test_images_are_float32_on_the_cpu_in_range_and_hold_no_graph() -> None:
    ldm = build_tiny_model().eval().bfloat16()
    with torch.no_grad():
        ldm.autoencoder.decoder.conv_out.weight.mul_(100)
    images = sample([0], dataclasses.replace(SMALL, num_steps=1), ldm=ldm)
    assert images.dtype == torch.float32
    assert images.device.type == "cpu"
    assert images.amin() == -1
    assert images.amax() == 1
    assert not images.requires_grad


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_strength_zero_gives_back_the_image_encoded_and_decoded(name: str) -> None:
    ldm, init_image = small_ldm(), an_image()
    images = sample([3, 4], dataclasses.replace(SMALL, sampler=name), InitImage(init_image, 0.0))
    for image, generator in zip(images, image_generators([3, 4]), strict=True):
        torch.randn(4, 8, 8, generator=generator)  # the noise that strength 0 does not use
        posterior_noise = torch.randn(1, 4, 8, 8, generator=generator)
        with torch.inference_mode():
            latents = ldm.sample_posterior(ldm.encode_posterior(init_image[None]), posterior_noise)
            expected = ldm.decode_latents(latents).clamp(-1, 1)[0]
        torch.testing.assert_close(image, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", EACH_SAMPLER)
def test_strength_one_samples_the_same_as_without_an_image(name: str) -> None:
    config = dataclasses.replace(SMALL, sampler=name)
    assert torch.equal(sample([3, 4], config, InitImage(an_image(), 1.0)), sample([3, 4], config))


@pytest.mark.parametrize("name", ["ddim", "euler-ancestral"])
def test_less_strength_leaves_more_of_the_image(name: str) -> None:
    config = dataclasses.replace(SMALL, sampler=name, num_steps=10)
    untouched = sample([3], config, InitImage(an_image(), 0.0))
    distances = [(sample([3], config, InitImage(an_image(), s)) - untouched).norm().item() for s in (0.1, 0.5, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_an_image_encoded_beforehand_gives_the_same_samples() -> None:
    init = InitImage(an_image(), 0.5)
    encoded = init.encoded(small_ldm())
    assert encoded.posterior is not None
    assert encoded.encoded(small_ldm()) is encoded
    assert torch.equal(sample([3, 4], SMALL, encoded), sample([3, 4], SMALL, init))


@pytest.mark.parametrize(
    ("init", "steps"), [(None, 3), (InitImage(an_image(), 0.67), 2), (InitImage(an_image(), 0), 0)]
)
def test_each_step_is_reported(init: InitImage | None, steps: int) -> None:
    reported: list[None] = []
    sample([0], SMALL, init, on_step=lambda: reported.append(None))
    assert len(reported) == steps


def broken_from_call(number: int, value: float = float("nan")) -> LatentDiffusion:
    """A model whose eps holds one such value from that call of the UNet on."""
    ldm, calls = new_ldm(), []
    predict_eps = ldm.predict_eps

    def broken(latents: Tensor, timesteps: Tensor, *conditioning: Any) -> Tensor:
        calls.append(timesteps)
        eps = predict_eps(latents, timesteps, *conditioning)
        if len(calls) >= number:
            eps[-1, -1, -1, -1] = value
        return eps

    ldm.predict_eps = broken  # type: ignore[method-assign]
    return ldm


@pytest.mark.parametrize(
    ("name", "call", "step", "value"),
    [("ddim", 1, 1, torch.nan), ("ddim", 3, 3, torch.inf), ("plms", 3, 2, torch.nan), ("dpm-solver", 5, 5, torch.inf)],
)
def test_numbers_that_overflow_in_the_unet_are_an_error_that_names_the_step(
    name: str, call: int, step: int, value: float
) -> None:
    config = dataclasses.replace(SMALL, sampler=name, num_steps=5)
    with pytest.raises(UserError, match=rf"UNet.* step {step} of 5 .*--precision full"):
        sample([0, 1], config, ldm=broken_from_call(call, value))


def test_the_step_is_counted_from_the_first_of_all_in_img2img_too() -> None:
    config = dataclasses.replace(SMALL, num_steps=5)
    with pytest.raises(UserError, match="step 4 of 5"):
        sample([0], config, InitImage(an_image(), 0.6), ldm=broken_from_call(2))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_numbers_that_overflow_in_the_decoder_are_an_error(broken: float) -> None:
    ldm = new_ldm()
    with torch.no_grad():
        ldm.autoencoder.decoder.conv_out.bias.fill_(broken)
    with pytest.raises(UserError, match=r"autoencoder.*conv_out.bias holds NaN or infinite numbers"):
        sample([0], ldm=ldm)

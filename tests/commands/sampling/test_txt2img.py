"""txt2img.py as a user types it: one image per prompt and seed, each the same whatever it is sampled with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ldm.commands.sampling import loop
from ldm.config import read_yaml
from tests.commands.calls import difference, pixels, shell
from tests.commands.fixtures import Sample, UNetCall

# Prompts and seeds


def test_without_any_flag_four_images_of_the_models_prompt_come_out(txt2img: Sample, tmp_path: Path) -> None:
    sampled = txt2img()
    assert sampled.directory == Path("outputs/txt2img-1")
    assert [path.name for path in sampled.paths] == [f"00-a-photo-of-a-cat_{seed}.png" for seed in (42, 43, 44, 45)]
    assert {image.shape for image in sampled.images} == {(32, 32, 3)}
    assert (sampled.directory / "grid.png").is_file()
    assert "4 images" in sampled.said


def test_several_prompts_are_each_sampled_with_every_seed(txt2img: Sample) -> None:
    sampled = txt2img("-p", "a cat", "a dog", "-p", "Ein Bär!", "-v", 2, "--seed", 7)
    assert [path.name for path in sampled.paths] == [
        f"0{index}-{name}_{seed}.png" for index, name in enumerate(["a-cat", "a-dog", "ein-bär"]) for seed in (7, 8)
    ]
    cat, other_cat, dog, *_ = sampled.images
    assert difference(cat, other_cat) > 1
    assert difference(cat, dog) > 1
    assert difference(cat, txt2img("-p", "a cat", "-v", 1, "--seed", 7).images[0]) <= 1


def test_the_same_prompt_twice_gives_two_files(txt2img: Sample) -> None:
    sampled = txt2img("-p", "a cat", "a cat", "-v", 1)
    one, two = sampled.images
    assert difference(one, two) <= 1


def test_an_empty_prompt_is_a_prompt(txt2img: Sample) -> None:
    sampled = txt2img("-p", "", "-v", 1)
    assert Image.open(sampled.paths[0]).info["ldm.prompt"] == ""
    assert difference(sampled.images[0], txt2img("-p", "a cat", "-v", 1).images[0]) > 1


@pytest.mark.parametrize("options", [("--ddim-eta", 1.0), ("--sampler", "plms")], ids=["eta", "plms"])
def test_batch_size_changes_no_bit_on_the_cpu(
    options: tuple[Any, ...], txt2img: Sample, unet_calls: list[UNetCall]
) -> None:
    """Libraries choose their kernels by the size of the batch; so every image goes through the networks alone."""
    alone, together = (txt2img("-p", "a cat", "a dog", "-v", 2, "-b", size, *options).images for size in (1, 8))
    assert all(difference(one, other) == 0 for one, other in zip(alone, together, strict=True))
    assert {one.batch for one in unet_calls} == {2}


@pytest.fixture
def three_threads() -> Iterator[Callable[[], None]]:
    """From the call on, torch takes three cores."""
    before = torch.get_num_threads()
    yield lambda: torch.set_num_threads(3)
    torch.set_num_threads(before)


def test_more_cores_sample_more_images_at_a_time_and_change_no_bit(
    txt2img: Sample, unet_calls: list[UNetCall], three_threads: Callable[[], None]
) -> None:
    one = txt2img("-p", "a cat", "a dog", "-v", 3).images
    three_threads()
    unet_calls.clear()
    sampled = txt2img("-p", "a cat", "a dog", "-v", 3)
    assert all(difference(a, b) == 0 for a, b in zip(one, sampled.images, strict=True))
    assert len(unet_calls) == 6 * 3
    assert "sampling: 6 of 6, " in sampled.said


def test_elsewhere_batch_size_is_how_many_are_sampled_together(
    txt2img: Sample, unet_calls: list[UNetCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "images_at_a_time", lambda device, batch_size: batch_size)
    sampled, batches = [], []
    for size in (1, 3, 8):
        unet_calls.clear()
        sampled.append(txt2img("-p", "a cat", "a dog", "-v", 2, "-b", size).images)
        batches.append([one.batch for one in unet_calls])
    assert batches == [[2] * 12, [6] * 3 + [2] * 3, [8] * 3]
    for alone, *together in zip(*sampled, strict=True):
        assert all(difference(alone, other) <= 1 for other in together)


# How to sample


def test_sampler_and_ddim_steps_are_used(txt2img: Sample, unet_calls: list[UNetCall]) -> None:
    default = txt2img("-v", 1, "--ddim-steps", 4)
    plms = txt2img("-v", 1, "--ddim-steps", 4, "--sampler", "plms")
    assert len(unet_calls) == 4 + 5  # PLMS calls the UNet twice in its first step
    assert Image.open(plms.paths[0]).info["ldm.sampler"] == "plms"
    assert difference(default.images[0], plms.images[0]) > 1


def test_scale_1_makes_no_unconditional_pass(txt2img: Sample, unet_calls: list[UNetCall]) -> None:
    sampled = txt2img("-v", 2, "--scale", 1)
    assert [one.batch for one in unet_calls] == [1] * 6
    unet_calls.clear()
    guided = txt2img("-v", 2, "--scale", 7.5)
    assert [one.batch for one in unet_calls] == [2] * 6
    assert difference(sampled.images[0], guided.images[0]) > 1


def test_a_negative_prompt_changes_the_image(txt2img: Sample) -> None:
    assert difference(txt2img("-v", 1, "-n", "blurry").images[0], txt2img("-v", 1).images[0]) > 1


def test_eta_adds_noise_that_the_seed_decides(txt2img: Sample) -> None:
    noisy = txt2img("-v", 1, "--ddim-eta", 1).images[0]
    assert difference(noisy, txt2img("-v", 1).images[0]) > 1
    assert difference(noisy, txt2img("-v", 1, "--ddim-eta", 1).images[0]) == 0


@pytest.mark.parametrize(("words", "size", "noted"), [((32, 48), (48, 32), False), ((1, 57), (64, 16), True)])
def test_hw_is_height_and_width_as_the_unet_takes_them(
    words: tuple[int, ...], size: tuple[int, int], noted: bool, txt2img: Sample, unet_calls: list[UNetCall]
) -> None:
    sampled = txt2img("-v", 1, "--hw", *words)
    assert Image.open(sampled.paths[0]).size == size
    assert unet_calls[0].latents == (4, size[1] // 8, size[0] // 8)
    assert ("needs multiples of 16" in sampled.said) is noted


# Where and how fast


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "weights", "arithmetic"),
    [
        ("auto", torch.float32, torch.float32),
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("autocast", torch.float32, torch.bfloat16),
    ],
)
def test_precision_decides_what_weights_are_and_what_is_computed_in(
    precision: str, weights: torch.dtype, arithmetic: torch.dtype, txt2img: Sample, unet_calls: list[UNetCall]
) -> None:
    sampled = txt2img("-v", 1, "--precision", precision, "-d", "cpu")
    assert {(one.weight_dtype, one.conv_dtype) for one in unet_calls} == {(weights, arithmetic)}
    full = txt2img("-v", 1).images[0]
    assert (difference(sampled.images[0], full) > 0) is (arithmetic != torch.float32)
    assert abs(sampled.images[0] - full).mean() < 8


# As a process of its own


@pytest.mark.slow
def test_as_a_process_of_its_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    outcome = shell("txt2img", "-c", tiny_checkpoint, "-v", 2, cwd=tmp_path)
    assert outcome.status == 0, outcome.said
    assert "2 images and grid.png in outputs/txt2img-1" in outcome.said
    assert pixels(tmp_path / "outputs" / "txt2img-1" / "00-a-photo-of-a-cat_43.png").shape == (32, 32, 3)
    assert read_yaml(tmp_path / "outputs" / "txt2img-1" / "run.yaml")["seeds"] == [42, 43]

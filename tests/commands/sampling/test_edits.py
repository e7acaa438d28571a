"""img2img.py with a checkpoint that edits by instruction (InstructPix2Pix)."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ldm.config import build_config
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.samplers import SAMPLERS
from tests.commands.calls import call, pixels, refused
from tests.commands.fixtures import Sample
from tests.tiny import TINY_YAML, write_tiny_checkpoint


@pytest.fixture(scope="module")
def edit_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of 8 input channels: latents, and those of the image."""
    shape = {**TINY_YAML["model"], "unet": {**TINY_YAML["model"]["unet"], "in_channels": 8}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LatentDiffusion(build_config(LatentDiffusionConfig, shape, "edit"))
        nn.init.normal_(model.unet.out[2].weight, std=0.05)
    config = {**TINY_YAML, "model": shape}
    yield write_tiny_checkpoint(tmp_path_factory.mktemp("edit"), model=model, config=config)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_image_is_edited_at_each_image_scale(img2img: Sample, photo: Path, edit_checkpoint: Path) -> None:
    scales = ("--image-scale", 1, 2.5)
    sampled = img2img("-i", photo, "-p", "make it red", "-v", 2, *scales, "-c", edit_checkpoint)
    assert [path.name.partition("red_")[2] for path in sampled.paths] == [
        f"{seed}_image-scale-{scale}.png" for seed in (42, 43) for scale in ("1", "2.5")
    ]
    first, second = sampled.images[:2]
    assert (first != second).any()
    assert sampled.record["options"]["strength"] == 1.0
    text = Image.open(sampled.paths[1]).info
    assert text["ldm.image_scale"] == "2.5" and "Image CFG scale: 2.5" in text["parameters"]
    with (sampled.directory / "pictures.csv").open() as file:
        assert [row["image_scale"] for row in csv.DictReader(file)] == ["1.0", "2.5"] * 2

    sampled.paths[1].unlink()
    again = img2img("-r", sampled.directory, "-c", edit_checkpoint)
    assert (again.images[1] == second).all(), "a resumed call edits the same"
    common = ("-i", photo, "-p", "make it red", "-v", 1, "--image-scale", 2.5, "-c", edit_checkpoint)
    assert (img2img(*common).images[0] == second).all()
    Image.fromarray((255 - pixels(photo)).astype(np.uint8)).save(photo)
    assert (img2img(*common).images[0] != second).any(), "the image that is edited decides"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_edits(sampler: str, img2img: Sample, photo: Path, edit_checkpoint: Path) -> None:
    common = ("-i", photo, "-v", 1, "--sampler", sampler, "--ddim-steps", 4, "-c", edit_checkpoint)
    images = [img2img(*common, "-p", "make it red", "--image-scale", scale).images[0] for scale in (1.5, 3)]
    assert (images[0] != images[1]).any()


@pytest.mark.slow
def test_a_part_is_edited_and_what_is_near_the_image_begins_with_it(
    img2img: Sample, photo: Path, edit_checkpoint: Path
) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (10, 6, 24, 20))
    mask.save(photo.with_name("mask.png"))
    common = ("-i", photo, "-p", "make it red", "-v", 1, "-c", edit_checkpoint)
    (masked,) = img2img(*common, "--mask", photo.with_name("mask.png")).images
    white = np.asarray(mask) > 0
    assert (masked[~white] == pixels(photo)[~white]).all() and (masked[white] != pixels(photo)[white]).any()
    kept = img2img(*common, "-s", 0.4)
    assert kept.record["options"]["strength"] == 0.4
    (before,) = kept.images
    kept.paths[0].unlink()
    assert (img2img("-r", kept.directory, "-c", edit_checkpoint).images[0] == before).all()


def test_what_has_no_meaning_with_the_model_is_refused(
    photo: Path, edit_checkpoint: Path, tiny_checkpoint: Path
) -> None:
    refused(call("txt2img", "-p", "make it red", "-c", edit_checkpoint), "use it with img2img.py -i")
    common = ("img2img", "-i", photo, "-p", "make it red")
    refused(call(*common, "-c", tiny_checkpoint, "--image-scale", 1.5), "--image-scale is for checkpoints that edit")
    refused(call(*common, "-c", edit_checkpoint, "--extend", "16,0,0,0"), "--extend is for other checkpoints")

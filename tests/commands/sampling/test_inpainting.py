"""img2img.py with a mask, and beyond the edges of an image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.config import build_config
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.report import sheets
from tests.commands.calls import call, pixels, refused
from tests.commands.fixtures import Sample
from tests.tiny import TINY_YAML, write_tiny_checkpoint


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White in the middle."""
    image = Image.new("L", (32, 32), 0)
    image.paste(255, (10, 6, 24, 20))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_only_what_is_white_is_painted_and_a_resumed_call_paints_the_same(
    img2img: Sample, photo: Path, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[Any] = []
    labelled_grid = sheets.labelled_grid
    monkeypatch.setattr(sheets, "labelled_grid", lambda *given: grids.append(given) or labelled_grid(*given))
    sampled = img2img("-i", photo, "--mask", mask, "-p", "a can", "-v", 2, "--mask-blur", 1)
    given, white = pixels(photo), pixels(mask)[..., 0] > 0
    for image in sampled.images:
        assert (image[~white] == given[~white]).all()
        assert np.abs(image[white] - given[white]).mean() > 10
    assert sampled.record["options"]["strength"] == 1.0
    shown = np.asarray(grids[0][0][0][0]).astype(int)
    assert (shown[~white] == given[~white]).all()
    assert np.abs(2 * shown[white] - given[white] - (255, 0, 255)).max() <= 2, "the grid shows the mask in magenta"
    text = Image.open(sampled.paths[0]).info
    assert (text["ldm.mask"], text["ldm.mask_blur"]) == ("mask.png", "1.0")
    before = sampled.images
    sampled.paths[0].unlink()
    mask.rename(mask.with_name("moved.png"))
    again = img2img("-r", sampled.directory, "--mask", mask.with_name("moved.png"))
    assert (again.images[0] == before[0]).all()
    inverted = img2img("-i", photo, "--mask", mask.with_name("moved.png"), "--invert-mask", "-p", "a can", "-v", 1)
    assert (inverted.images[0][white] == given[white]).all()


def test_beyond_the_edges_is_painted_and_the_image_stays(img2img: Sample, photo: Path) -> None:
    sampled = img2img("-i", photo, "--extend", "16,0,32,16", "-p", "a can", "-v", 1)
    (image,) = sampled.images
    assert image.shape == (48, 80, 3)
    assert (image[:32, 16:48] == pixels(photo)).all()
    assert image[:, 56:].std() > 0
    assert sampled.record["options"]["hw"] == [32, 32]
    before = image
    sampled.paths[0].unlink()
    assert (img2img("-r", sampled.directory).images[0] == before).all()


def test_a_model_for_inpainting_needs_a_mask(
    img2img: Sample, photo: Path, mask: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of 9 input channels: latents, mask, and the masked image's latents."""
    shape = {**TINY_YAML["model"], "unet": {**TINY_YAML["model"]["unet"], "in_channels": 9}}
    torch.manual_seed(0)
    model = LatentDiffusion(build_config(LatentDiffusionConfig, shape, "inpainting"))
    config = {**TINY_YAML, "model": shape}
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("inpainting"), model=model, config=config)
    (image,) = img2img("-i", photo, "--mask", mask, "-p", "a can", "-v", 1, "-c", path).images
    black = pixels(mask)[..., 0] == 0
    assert (image[black] == pixels(photo)[black]).all() and (image[~black] != pixels(photo)[~black]).any()
    refused(call("txt2img", "-p", "a can", "-c", path), "img2img.py --mask")
    refused(call("img2img", "-i", photo, "-p", "a can", "-c", path), "img2img.py --mask")
    assert len([*Path("outputs").iterdir()]) == 1, "what is refused leaves nothing"
    assert call("convert", path, path.parent / "pipeline").status == 0  # and a diffusers directory of it is one, too
    (same,) = img2img("-i", photo, "--mask", mask, "-p", "a can", "-v", 1, "-c", path.parent / "pipeline").images
    assert (same == image).all()


def test_masks_that_can_not_be_are_refused(photo: Path, mask: Path, tiny_checkpoint: Path) -> None:
    common = ("img2img", "-i", photo, "-p", "a can", "-c", tiny_checkpoint)
    Image.new("L", (32, 20), 255).save(mask.with_name("wide.png"))
    Image.new("L", (32, 32), 0).save(mask.with_name("black.png"))
    refused(call(*common, "--mask", mask.with_name("wide.png")), "should have the same shape")
    refused(call(*common, "--mask", mask.with_name("black.png")), "nothing in it is white")
    Image.new("L", (32, 32), 255).save(mask.with_name("white.png"))
    refused(call(*common, "--mask", mask.with_name("white.png"), "--invert-mask"), "nothing in it is black")
    refused(call(*common, "--extend", "5,0,0,0"), "--extend 5,0,0,0", "multiple of 16")
    refused(call(*common, "--mask-blur", 3), "--mask-blur is for --mask")
    refused(call(*common, "--extend", "16,0,0,0", "--invert-mask"), "--invert-mask is for --mask")

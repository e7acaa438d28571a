"""img2img.py over a folder: each image with its name, its shape, and one seed for all or one each."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.calls import call, pixels, refused
from tests.commands.fixtures import Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of two shapes; the first two are the same."""
    (tmp_path / "walk").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name, image in {"walk-2.png": noise, "walk-10.jpg": noise[:, :32], "walk-1.png": noise}.items():
        Image.fromarray(image).save(tmp_path / "walk" / name)
    return tmp_path / "walk"


def frames(directory: Path) -> dict[str, np.ndarray]:
    return {path.name: pixels(path) for path in sorted((directory / "frames").iterdir())}


def test_each_image_is_changed_as_it_is_alone_and_keeps_its_name(img2img: Sample, folder: Path) -> None:
    sampled = img2img("-i", folder, "-p", "a can")
    images = frames(sampled.directory)
    assert [*images] == ["walk-1.png", "walk-10.png", "walk-2.png"]
    assert images["walk-10.png"].shape == (48, 16, 3), "its own shape, at about the model's area"
    for name, given in (("walk-1.png", "walk-1.png"), ("walk-10.png", "walk-10.jpg")):
        (alone,) = img2img("-i", folder / given, "-p", "a can", "-v", 1).images
        assert (images[name] == alone).all()
    assert (images["walk-1.png"] == images["walk-2.png"]).all(), "of the same seed"
    grid = Image.open(sampled.directory / "grid.png")
    assert grid.width > 3 * 160 and grid.height > 2 * 160, "the initial images are above"

    (sampled.directory / "frames" / "walk-10.png").unlink()
    folder = folder.rename(folder.with_name("moved"))
    again = img2img("-r", sampled.directory, "-i", folder)
    assert (frames(again.directory)["walk-10.png"] == images["walk-10.png"]).all()
    assert sampled.record["options"]["variations"] == 1


def test_a_seed_for_each_and_several_results_of_each(img2img: Sample, folder: Path) -> None:
    sampled = img2img("-i", folder, "-p", "a can", "--seed-per-image", "--seed", 5, "-v", 2, "--hw", 32)
    images = frames(sampled.directory)
    expected = {1: (5, 6), 2: (7, 8), 10: (9, 10)}
    assert {*images} == {f"walk-{frame}_00-a-can_{seed}.png" for frame, seeds in expected.items() for seed in seeds}
    assert {image.shape for image in images.values()} == {(32, 32, 3)}
    assert (images["walk-1_00-a-can_5.png"] != images["walk-2_00-a-can_7.png"]).any()


def test_folders_that_can_not_be_are_refused(folder: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    common = ("img2img", "-p", "a can", "-c", tiny_checkpoint, "-o", tmp_path / "outputs")
    refused(call(*common, "-i", folder / "walk-1.png", "--seed-per-image"), "--seed-per-image is for a folder")
    (tmp_path / "empty").mkdir()
    refused(call(*common, "-i", tmp_path / "empty"), "empty")
    (folder / "walk-3.png").write_bytes((folder / "walk-1.png").read_bytes()[:300])
    refused(call(*common, "-i", folder), "walk-3.png")
    assert not (tmp_path / "outputs").exists()

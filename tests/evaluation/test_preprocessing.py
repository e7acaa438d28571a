"""Number by number against transformers' own processors, on PIL images of all shapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, ViTImageProcessor

from ldm.data.images import to_tensor
from ldm.errors import UserError
from ldm.evaluation.preprocessing import Preprocessing, centre_crop, read_preprocessing
from tests.evaluation.networks import CLIP_PREPROCESSING, DINO_PREPROCESSING

SHAPES = [(64, 64), (224, 224), (512, 512), (300, 451), (640, 401), (100, 333), (225, 224), (31, 30)]
"""Height and width."""


def photo_like(height: int, width: int) -> Image.Image:
    """Soft blobs with noise on them, as a photo has; some of it at the ends of the range."""
    dice = np.random.default_rng(height * 1000 + width)
    blobs = dice.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    soft = np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((soft + dice.integers(-25, 26, soft.shape)).clip(0, 255).astype(np.uint8))


def written(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(json.dumps(values))
    return path


DIFFERING = {Image.Resampling.BICUBIC: 0.01, Image.Resampling.BILINEAR: 0.1}
"""The share of pixels that may differ by a level: whole ratios of sizes make many bilinear ones fall between two."""


def assert_same_levels(ours: torch.Tensor, theirs: torch.Tensor, std: list[float], differing: float = 0.02) -> None:
    """At most two of 255 levels apart, and equal but for a small share."""
    assert ours.shape == theirs.shape
    levels = (ours - theirs).abs() * 255 * torch.tensor(std)[:, None, None]
    assert levels.max() < 2.01
    assert (levels > 0.01).float().mean() < differing


@pytest.mark.parametrize("shape", SHAPES)
def test_clips_images_are_those_of_its_processor(shape: tuple[int, int], tmp_path: Path) -> None:
    values = CLIP_PREPROCESSING | {"size": 224, "crop_size": 224}
    image = photo_like(*shape)
    ours = read_preprocessing(written(tmp_path / "p.json", values), one_number_is_a_square=False)
    theirs = CLIPImageProcessor(**values)(image, return_tensors="pt")["pixel_values"]
    assert_same_levels(ours(to_tensor(image)[None]), theirs, values["image_std"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resample", [2, 3])
def test_dinos_images_are_those_of_its_processor(shape: tuple[int, int], resample: int, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="transformers falls back on Pillow, which orders axes by its version")
    values = DINO_PREPROCESSING | {"size": 224, "resample": resample}
    image = photo_like(*shape)
    ours = read_preprocessing(written(tmp_path / "p.json", values), one_number_is_a_square=True)
    theirs = ViTImageProcessor(**values)(image, return_tensors="pt")["pixel_values"]
    differing = 2 * DIFFERING[Image.Resampling(resample)]
    assert_same_levels(ours(to_tensor(image)[None]), theirs, values["image_std"], differing)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_resizing_is_pillows(shape: tuple[int, int], resample: Image.Resampling) -> None:
    image = photo_like(*shape)
    plain = Preprocessing(resample.name.lower(), (224, 160), None, (0.0, 0.0, 0.0), (1 / 255,) * 3)
    ours = plain(to_tensor(image)[None])[0]
    # In two steps: which axis comes first when both are asked for at once depends on Pillow's version and the shape.
    resized = image.resize((160, image.height), resample).resize((160, 224), resample)
    theirs = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    differing = (ours - theirs).abs().round()
    assert differing.max() <= 2
    assert (differing > 0).float().mean() < DIFFERING[resample]


def test_a_batch_is_prepared_as_each_alone(tmp_path: Path) -> None:
    prepare = read_preprocessing(written(tmp_path / "p.json", CLIP_PREPROCESSING), one_number_is_a_square=False)
    images = torch.stack([to_tensor(photo_like(60, 80)), to_tensor(photo_like(80, 60)).transpose(1, 2)])
    assert torch.equal(prepare(images), torch.cat([prepare(one[None]) for one in images]))


def test_newer_files_give_sizes_by_name(tmp_path: Path) -> None:
    newer = CLIP_PREPROCESSING | {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    old, new = (written(tmp_path / "p.json", CLIP_PREPROCESSING), written(tmp_path / "n.json", newer))
    assert read_preprocessing(old, one_number_is_a_square=False) == read_preprocessing(new, one_number_is_a_square=True)
    square = written(tmp_path / "s.json", DINO_PREPROCESSING | {"size": {"height": 30, "width": 40}})
    assert read_preprocessing(square, one_number_is_a_square=True).size == (30, 40)


def test_what_is_missing_around_a_small_image_is_black() -> None:
    cropped = centre_crop(torch.ones(1, 1, 1, 4), 3, 2)
    assert cropped.tolist() == [[[[0, 0], [1, 1], [0, 0]]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "'do_resize' should be true"),
        ({"do_normalize": None}, "'do_normalize' should be true"),
        ({"resample": 7}, "can't be understood"),
        ({"size": 0}, "at least 1"),
        ({"size": "large"}, "can't be understood"),
        ({"size": {"width": 3}}, "height"),
        ({"crop_size": {"shortest_edge": 4}}, "crop_size"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_std": [1, 1, 0]}, "three numbers"),
    ],
)
def test_a_file_that_says_something_else_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_preprocessing(written(tmp_path / "p.json", CLIP_PREPROCESSING | change), one_number_is_a_square=False)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(UserError, match=r"p\.json can't be read as JSON"):
        read_preprocessing(tmp_path / "p.json", one_number_is_a_square=True)

"""img2img.py as a user types it: an image changed by a share of the steps."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from torch import Tensor

from ldm.nn.autoencoder import AutoencoderKL, DiagonalGaussian
from ldm.report import sheets
from ldm.report.grid import Heading
from tests.commands.calls import call, difference, pixels, refused
from tests.commands.fixtures import Sample, Trained, UNetCall
from tests.report.tables import table_of


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    """A square image with a red disc."""
    image = Image.new("RGB", (64, 64), (40, 90, 160))
    ImageDraw.Draw(image).ellipse((8, 12, 30, 40), fill=(230, 30, 20))
    image.save(tmp_path / "sketch.png")
    return tmp_path / "sketch.png"


def test_the_image_is_changed_once_per_seed(img2img: Sample, sketch: Path) -> None:
    sampled = img2img("-i", sketch, "-v", 2, "--seed", 3, "-p", "a can")
    assert sampled.directory == Path("outputs/img2img-1")
    assert [path.name for path in sampled.paths] == ["00-a-can_3.png", "00-a-can_4.png"]
    assert difference(*sampled.images) > 1
    inverted = sketch.with_name("inverted.png")
    Image.fromarray((255 - pixels(sketch)).astype(np.uint8)).save(inverted)
    assert difference(sampled.images[0], img2img("-i", inverted, "-v", 1, "--seed", 3, "-p", "a can").images[0]) > 1


@pytest.mark.parametrize("compared", [False, True], ids=["one checkpoint", "compared"])
def test_the_grid_and_the_page_begin_with_the_initial_image(
    compared: bool, img2img: Sample, sketch: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[Any] = []
    labelled_grid = sheets.labelled_grid
    monkeypatch.setattr(sheets, "labelled_grid", lambda *given: grids.append(given) or labelled_grid(*given))
    sampled = img2img("-i", sketch, "-v", 2, "-p", "a can", *(["-c", trained.root, "--no-base"] if compared else []))
    ((cells, _, columns, headings),) = grids
    assert columns == ["", "seed 42", "seed 43"]
    assert headings == [Heading("initial image", 1), Heading("a can", 2)]
    assert [line[0] is not None for line in cells] == [True, *[False] * (len(cells) - 1)]
    with Image.open(sketch) as given:
        fitted = np.asarray(given.resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
    assert abs(np.asarray(cells[0][0]).astype(int) - fitted).mean() < 4
    if compared:
        page = (sampled.directory / "index.html").read_text(encoding="utf-8")
        assert f'"init_image":"{table_of(sampled).init_image}"' in page
        assert (sampled.directory / table_of(sampled).init_image).is_file()


@pytest.mark.parametrize(("strength", "passes"), [(0.05, 0), (0.29, 2), (0.3, 3), (1, 10)])
def test_strength_is_the_share_of_the_steps_that_are_run(
    strength: float, passes: int, img2img: Sample, sketch: Path, unet_calls: list[UNetCall]
) -> None:
    img2img("-i", sketch, "-v", 1, "-s", strength, "--ddim-steps", 10)
    assert len(unet_calls) == passes


def test_the_image_is_encoded_once_for_all_that_are_sampled_from_it(
    img2img: Sample, sketch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = AutoencoderKL.encode, []

    def watched(self: AutoencoderKL, images: Tensor) -> DiagonalGaussian:
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(AutoencoderKL, "encode", watched)
    img2img("-i", sketch, "-v", 3, "-s", 0.5)
    assert encoded == [1]


def test_strength_is_075_by_default_and_recorded(img2img: Sample, sketch: Path) -> None:
    sampled = img2img("-i", sketch, "-v", 1)
    info = Image.open(sampled.paths[0]).info
    assert info["ldm.strength"] == "0.75"
    assert info["ldm.init_img"] == sketch.name
    assert sampled.record["options"]["strength"] == 0.75
    assert sampled.record["options"]["init_img"] == str(sketch)


@pytest.mark.parametrize(("photo_size", "size", "noted"), [((300, 150), (48, 16), True), ((5, 5), (32, 32), False)])
def test_without_hw_the_images_shape_is_kept_at_the_models_area(
    photo_size: tuple[int, int], size: tuple[int, int], noted: bool, img2img: Sample, tmp_path: Path
) -> None:
    Image.new("RGB", photo_size, "green").save(tmp_path / "photo.png")
    sampled = img2img("-i", tmp_path / "photo.png", "-v", 1)
    assert Image.open(sampled.paths[0]).size == size
    assert ("needs multiples of 16" in sampled.said) is noted


@pytest.mark.parametrize(
    ("command", "what"),
    [("img2img -i", "named pipe"), ("img2img -i", "device"), ("dreambooth -c can -i", "named pipe"),
     ("evaluate --instance-img-dir", "device")],
)  # fmt: skip
def test_what_is_no_file_is_refused_and_not_waited_for(
    what: str, command: str, tiny_checkpoint: Path, trained: Trained, tmp_path: Path
) -> None:
    if what == "device":
        (tmp_path / "odd").symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "odd")
    weights = trained.root if command.startswith("evaluate") else tiny_checkpoint
    outcome = call(*command.split(), tmp_path / "odd", "--ckpt-path", weights)
    refused(outcome, str(tmp_path / "odd"), f"is a {what}")


def test_hw_is_the_size(img2img: Sample, sketch: Path) -> None:
    assert Image.open(img2img("-i", sketch, "-v", 1, "--hw", 32, 48).paths[0]).size == (48, 32)


def test_fine_tuned_checkpoints_are_compared(img2img: Sample, sketch: Path, trained: Trained) -> None:
    sampled = img2img("-i", sketch, "-v", 1, "-c", trained.root, "--no-base")
    assert [path.name for path in sampled.paths] == [
        f"tin-can-1-step-{step}_00-a-photo-of-sks-tin-can_42.png" for step in (3, 6, 7)
    ]
    assert difference(sampled.images[0], sampled.images[2]) > 0
    alone = img2img("-i", sketch, "-v", 1, "-c", trained.step(6)).images[0]
    assert difference(alone, sampled.images[1]) <= 1

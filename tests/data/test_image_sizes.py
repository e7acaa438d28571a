"""Very large images: reduced while they are read if a small one is needed, or refused before they take memory."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data import images
from ldm.data.images import fit_image, image_size, read_image
from ldm.data.photos import read_directory
from ldm.errors import UserError
from tests.data.odd_images import BAD, ORIENTATION, png
from tests.data.scenes import scene

KINDS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_image_is_reduced_to_no_less_than_twice_the_needed_size(
    kind: str, orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "LARGE_PIXELS", 50_000)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    gradient = Image.merge("RGB", [Image.linear_gradient("L").resize((400, 320))] * 3)
    gradient.save(tmp_path / "large", kind, **({} if kind == "GIF" else {"exif": exif}))
    whole, reduced = read_image(tmp_path / "large"), read_image(tmp_path / "large", cover=32)
    turned = orientation == 6 and kind != "GIF"
    assert whole.size == ((320, 400) if turned else (400, 320))
    assert 64 <= min(reduced.size) < 130
    assert np.abs(np.asarray(fit_image(reduced, 24, 32)).astype(int) - np.asarray(fit_image(whole, 24, 32))).max() <= 6


def test_an_image_that_is_not_large_keeps_its_bits_at_any_needed_size(tmp_path: Path) -> None:
    scene(500, 700).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg", cover=8).tobytes() == read_image(tmp_path / "a.jpg").tobytes()


@pytest.mark.parametrize("name", [name for name in BAD if name.startswith("bomb")])
def test_a_file_too_small_for_its_pixels_is_refused_before_it_takes_memory(name: str, tmp_path: Path) -> None:
    BAD[name](tmp_path / name)
    tracemalloc.start()
    with pytest.raises(UserError, match=rf"{name} claims to be \d+ x \d+ pixels in \d+ bytes"):
        read_image(tmp_path / name, cover=64)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_more_than_the_memory_holds_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(7000, 7000, bytes(10)))
    monkeypatch.setattr(images, "available_memory", lambda: 2**29)
    with pytest.raises(UserError, match=r"a\.png has 7000 x 7000 pixels, .* 588 MB of memory, more than the 268 MB"):
        read_image(tmp_path / "a.png")
    for available in (2**34, None):
        monkeypatch.setattr(images, "available_memory", lambda given=available: given)
        with pytest.raises(UserError, match="truncated"):
            read_image(tmp_path / "a.png")


def test_pillows_own_limit_is_unchanged_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene(100, 100).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(tmp_path / "a.png").size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_reading_the_size_decodes_no_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(7000, 5000, b""))
    assert image_size(tmp_path / "a.png") == (7000, 5000)
    (tmp_path / "a.png").write_text("none")
    with pytest.raises(UserError, match="not a readable image"):
        image_size(tmp_path / "a.png")


@pytest.mark.slow
def test_thirty_photos_of_two_hundred_megapixels(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    grey = Image.linear_gradient("L").resize((16320, 12288))
    Image.merge("RGB", [grey] * 3).save(buffer, "JPEG")
    for index in range(30):
        (tmp_path / f"{index}.jpg").write_bytes(buffer.getvalue())
    paths, photos = read_directory(tmp_path, 512, 512)
    assert len(paths) == 30 and photos.shape == (30, 3, 512, 512)
    column = photos[0, 0, :, 256]
    assert column[0] < -0.98 and column[-1] > 0.98

"""Images of cameras and programs are read upright, opaque and as RGB; an error names a broken file."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from ldm.data.images import read_image
from ldm.errors import UserError
from tests.data.odd_images import BAD, GOOD, ORIENTATION, STORED, TURNED, save_turned, turned
from tests.data.scenes import BLUE, GREEN, RED, WHITE, pixels, scene


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    stored, exif = turned(orientation)
    stored.save(tmp_path / "a.png", exif=exif)
    assert pixels(read_image(tmp_path / "a.png")) == pixels(scene())


@pytest.mark.parametrize("kind", TURNED)
def test_a_photo_is_turned_upright_once(kind: str, tmp_path: Path) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    visual = Image.new("RGB", (48, 32), BLUE)
    visual.paste(RED, (0, 0, 16, 16))  # the upper left corner
    for orientation in STORED:
        save_turned(tmp_path / "photo", kind, orientation, visual)
        photo = read_image(tmp_path / "photo")
        assert photo.size == (48, 32), orientation
        assert np.abs(np.asarray(photo).astype(int) - np.asarray(visual)).mean() < 3, orientation


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    scene().save(tmp_path / "a.png", exif=exif)
    assert pixels(read_image(tmp_path / "a.png")) == pixels(scene())


@pytest.mark.parametrize(
    "tag",
    [
        b"\x01\x01\x00\x02\x00\x00\x00\x02x\x00\x00\x00",  # the height, as text
        b"\x01\x1b\x00\x02\x00\x00\x00\x02x\x00\x00\x00",  # the resolution, as text
        b"\x01\x0f\x00\x05\x00\x00\x00\x02\x00\x00\x00\x00",  # the maker, as fractions
    ],
)
def test_an_odd_tag_of_a_camera_does_not_spoil_its_photo(tag: bytes, tmp_path: Path) -> None:
    turn = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x02" + tag + turn + bytes(12)
    Image.new("RGB", (32, 16), RED).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (16, 32)


def row(mode: str, *values: object, palette: Sequence[int] = ()) -> Image.Image:
    """An image of one row of these pixels."""
    image = Image.new(mode, (len(values), 1))
    if palette:
        image.putpalette(palette)
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)  # type: ignore[arg-type]
    return image


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_entry_of_a_palette_becomes_white(suffix: str, tmp_path: Path) -> None:
    row("P", 0, 1, palette=[*BLUE, *RED]).save(tmp_path / f"a.{suffix}", transparency=1)
    assert pixels(read_image(tmp_path / f"a.{suffix}")) == [[list(BLUE), list(WHITE)]]


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (row("RGBA", (*RED, 255), (*RED, 0), (*RED, 128)), {}, [RED, WHITE, (255, 127, 127)]),
        (row("LA", (10, 255), (10, 0)), {}, [(10, 10, 10), WHITE]),
        (row("RGB", RED, GREEN), {"transparency": GREEN}, [RED, WHITE]),
        (row("P", 0, 1, palette=[*BLUE, *RED]), {}, [BLUE, RED]),
        (row("1", 0, 1), {}, [(0, 0, 0), WHITE]),
    ],
    ids=["transparent", "transparent grey", "a transparent colour", "a palette", "black and white"],
)
def test_every_mode_becomes_opaque_colour(
    image: Image.Image, options: dict[str, Any], expected: list[tuple[int, ...]], tmp_path: Path
) -> None:
    image.save(tmp_path / "a.png", **options)
    assert pixels(read_image(tmp_path / "a.png")) == [[list(pixel) for pixel in expected]]


@pytest.mark.parametrize(("grey", "suffix"), [(0, "png"), (77, "png"), (255, "png"), (77, "jpg")])
def test_grey(grey: int, suffix: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8), grey).save(tmp_path / f"a.{suffix}")
    assert pixels(read_image(tmp_path / f"a.{suffix}"))[0][0] == [grey] * 3


def test_print_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = pixels(read_image(tmp_path / "a.jpg"))[8][8]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_cut(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert [pixel[0] for pixel in pixels(read_image(tmp_path / f"a.{suffix}"))[0]] == [0, 0, 1, 128, 255]


def test_sixteen_bits_upright(tmp_path: Path) -> None:
    values = (np.arange(6).reshape(2, 3) * 256).astype(np.uint16)
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.asarray(read_image(tmp_path / "a.png"))[:, :, 0].tolist() == [[5, 4, 3], [2, 1, 0]]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / f"a.{suffix}") as file:
        assert getattr(file, "n_frames", 1) == 3
    assert pixels(read_image(tmp_path / f"a.{suffix}"))[0][0] == list(RED)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif"])
def test_the_usual_formats(suffix: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), BLUE)
    image.paste(RED, (0, 0, 4, 4))
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert pixels(read_image(tmp_path / f"a.{suffix}")) == pixels(image)


def test_an_image_is_whole_when_its_file_is_gone(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert pixels(image) == pixels(scene())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
@pytest.mark.parametrize("percent", [0, 2, 50, 90])
def test_a_truncated_image_is_named(percent: int, suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: len(content) * percent // 100])
    assert "not a readable image" in error_of(cut)


@pytest.mark.parametrize("content", [b"", b"not an image", b"<!DOCTYPE html>", bytes(100), b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert "not a readable image" in error_of(tmp_path / "a.jpg")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    assert "there is no image" in error_of(tmp_path / "a.jpg")


def test_a_directory_is_no_image(tmp_path: Path) -> None:
    error_of(tmp_path)


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_read_is_named_at_once(name: str, tmp_path: Path) -> None:
    BAD[name](tmp_path / name)
    error_of(tmp_path / name)


@pytest.mark.parametrize("name", GOOD)
def test_odd_images_are_read(name: str, tmp_path: Path) -> None:
    GOOD[name](tmp_path / name)
    assert read_image(tmp_path / name).mode == "RGB"


@pytest.mark.parametrize("what", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_named_and_nothing_waits_for_it(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    match what:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(path))
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    assert f"is a {'named pipe' if what == 'pipe' else what}, not a file" in error_of(path)

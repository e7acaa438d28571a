"""Pictures: whatever cameras and programs write comes in upright, opaque and RGB; what is broken is named."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm.data.images import IMAGE_SUFFIXES, fit, read_directory, read_image, save_png, to_image, to_tensor
from ldm.errors import UserError

ORIENTATION = 0x0112
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def scene(height: int = 6, width: int = 9) -> Image.Image:
    """A picture of which no two pixels are the same."""
    values = np.arange(height * width).reshape(height, width)
    return Image.fromarray(np.stack([values, 255 - values, values // 2 + 40], axis=-1).astype(np.uint8))


def pixels(image: Image.Image) -> list[Any]:
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(path) in str(error.value)
    return str(error.value)


# EXIF 2.3, tag 0x0112: which visual side the stored picture's row 0 and column 0 are.
STORED = {
    1: lambda visual: visual,  # top, left
    2: lambda visual: visual[:, ::-1],  # top, right
    3: lambda visual: visual[::-1, ::-1],  # bottom, right
    4: lambda visual: visual[::-1],  # bottom, left
    5: lambda visual: visual.swapaxes(0, 1),  # left, top
    6: lambda visual: visual[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda visual: visual[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda visual: visual[::-1].swapaxes(0, 1),  # left, bottom
}


def turned(orientation: int) -> tuple[Image.Image, Image.Exif]:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(scene()))))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return stored, exif


@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_comes_in_upright(orientation: int, tmp_path: Path) -> None:
    stored, exif = turned(orientation)
    stored.save(tmp_path / "a.png", exif=exif)
    assert pixels(read_image(tmp_path / "a.png")) == pixels(scene())


@pytest.mark.parametrize("orientation", STORED)
def test_a_photo_comes_in_upright(orientation: int, tmp_path: Path) -> None:
    visual = Image.new("RGB", (48, 32), BLUE)
    visual.paste(RED, (0, 0, 16, 16))  # the upper left corner
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(visual))))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    photo = read_image(tmp_path / "a.jpg")
    assert photo.size == (48, 32)
    assert np.abs(np.asarray(photo).astype(int) - np.asarray(visual)).mean() < 3


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
def test_odd_words_of_a_camera_do_not_spoil_its_photo(tag: bytes, tmp_path: Path) -> None:
    turn = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x02" + tag + turn + bytes(12)
    Image.new("RGB", (32, 16), RED).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (16, 32)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(200, 0, 0, 255), (200, 0, 0, 0), (255, 0, 0, 128)]):
        image.putpixel((x, 0), pixel)
    image.save(tmp_path / "a.png")
    assert pixels(read_image(tmp_path / "a.png")) == [[[200, 0, 0], [255, 255, 255], [255, 127, 127]]]


def test_transparent_grey_becomes_white(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (10, 255))
    image.putpixel((1, 0), (10, 0))
    image.save(tmp_path / "a.png")
    assert pixels(read_image(tmp_path / "a.png")) == [[[10, 10, 10], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_entry_of_a_palette_becomes_white(suffix: str, tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / f"a.{suffix}", transparency=1)
    assert pixels(read_image(tmp_path / f"a.{suffix}")) == [[[0, 0, 255], [255, 255, 255]]]


def test_a_palette_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert pixels(read_image(tmp_path / "a.png")) == [[list(BLUE), list(RED)]]


def test_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    image.save(tmp_path / "a.png", transparency=GREEN)
    assert pixels(read_image(tmp_path / "a.png")) == [[list(RED), list(WHITE)]]


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


def test_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert pixels(read_image(tmp_path / "a.png")) == [[[0, 0, 0], [255, 255, 255]]]


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


def test_a_picture_is_whole_when_its_file_is_gone(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert pixels(image) == pixels(scene())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
@pytest.mark.parametrize("percent", [0, 2, 50, 90])
def test_a_truncated_picture_is_named(percent: int, suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: len(content) * percent // 100])
    assert "not a readable image" in error_of(cut)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"<!DOCTYPE html>", bytes(100), b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert "not a readable image" in error_of(tmp_path / "a.jpg")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    assert "there is no image" in error_of(tmp_path / "a.jpg")


def test_a_directory_is_no_picture(tmp_path: Path) -> None:
    error_of(tmp_path)


def test_a_picture_too_large_to_be_true_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene(100, 100).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    error_of(tmp_path / "a.png")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    stored, exif = turned(6)
    stored.save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, of damaged words about the picture
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@settings(max_examples=100)
@given(where=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=5))
def test_a_damaged_picture_is_read_or_named(
    kind: str, where: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    content = bytearray(encoded(kind))
    for share, byte in where:
        content[int(share**2 * len(content))] = byte  # most of them near the beginning
    path.write_bytes(content)
    try:
        assert read_image(path).mode == "RGB"
    except UserError as error:
        assert str(path) in str(error)


def stripes(colours: list[tuple[int, int, int]], side: int = 30) -> Image.Image:
    image = Image.new("RGB", (side * len(colours), side))
    for index, colour in enumerate(colours):
        image.paste(colour, (side * index, 0, side * (index + 1), side))
    return image


@pytest.mark.parametrize("upright", [False, True])
def test_what_stands_out_is_cut_off_evenly(upright: bool) -> None:
    image = stripes([RED, GREEN, BLUE])
    image = image.transpose(Image.Transpose.ROTATE_90) if upright else image
    assert np.asarray(fit(image, 30, 30)).reshape(-1, 3).tolist() == [list(GREEN)] * 900


def test_both_sides_lose_the_same() -> None:
    fitted = np.asarray(fit(stripes([RED, GREEN, GREEN, BLUE]), 30, 90))
    assert (fitted[:, :10] == RED).all()
    assert (fitted[:, -10:] == BLUE).all()
    assert np.abs(fitted[:, 20:70].astype(int) - GREEN).max() <= 2


@settings(max_examples=50)
@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), target=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_a_fitted_picture_covers_all_of_its_size(size: tuple[int, int], target: tuple[int, int]) -> None:
    height, width = target
    fitted = fit(Image.new("RGB", size, (10, 200, 60)), height, width)
    assert fitted.size == (width, height)
    assert (np.asarray(fitted) == (10, 200, 60)).all()


def test_nothing_is_cut_off_a_picture_of_the_right_shape() -> None:
    assert pixels(fit(scene(6, 9), 6, 9)) == pixels(scene(6, 9))
    corners = np.asarray(fit(stripes([RED, BLUE], 40), 20, 40))
    assert corners[0, 0].tolist() == list(RED)
    assert corners[-1, -1].tolist() == list(BLUE)


def test_every_value_of_eight_bits_survives_the_way_there_and_back() -> None:
    ramp = np.arange(256, dtype=np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], np.roll(ramp, 100)], axis=-1)[None])
    tensor = to_tensor(image)
    assert tensor.shape == (3, 1, 256)
    assert tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (-1.0, 1.0)
    assert pixels(to_image(tensor)) == pixels(image)


def test_channels_rows_and_columns_are_in_their_places() -> None:
    tensor = to_tensor(scene(6, 9))
    assert tensor.shape == (3, 6, 9)
    for channel, row, column in [(0, 0, 0), (1, 5, 0), (2, 0, 8), (0, 3, 7)]:
        expected = pixels(scene(6, 9))[row][column][channel]
        assert tensor[channel, row, column].item() == pytest.approx(expected / 127.5 - 1.0)


def test_what_is_no_colour_becomes_the_nearest_one() -> None:
    tensor = torch.tensor([-7.0, -1.001, -1.0, 0.0, 0.999, 1.0, 1.001, 1e9]).expand(3, 1, 8)
    assert [pixel[0] for pixel in pixels(to_image(tensor))[0]] == [0, 0, 0, 128, 255, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pictures_of_other_types_and_layouts(dtype: torch.dtype) -> None:
    tensor = to_tensor(Image.new("RGB", (5, 3), RED)).to(dtype)
    expected = [[[255, 0, 0]] * 5] * 3
    assert pixels(to_image(tensor)) == expected
    assert pixels(to_image(tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1))) == expected


def write_photos(directory: Path, *names: str) -> None:
    directory.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        Image.new("RGB", (10 + index, 20), (index, 0, 0)).save(directory / name, format="PNG")


def test_all_photos_of_a_directory(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths, images = read_directory(photos, 16, 24)
    assert [path.name for path in paths] == [f"photo-{i}.{'png' if i % 2 else 'jpg'}" for i in range(1, 6)]
    assert images.shape == (5, 3, 16, 24)
    assert images.dtype == torch.float32
    for path, image in zip(paths, images, strict=True):
        assert torch.equal(image, to_tensor(fit(read_image(path), 16, 24)))
    assert not caplog.records


def test_photos_come_in_natural_order(tmp_path: Path) -> None:
    names = ["1.png", "2.png", "10.png", "a-9.png", "a-10.png", "B.png", "c.png"]
    write_photos(tmp_path, *reversed(names))
    assert [path.name for path in read_directory(tmp_path, 8, 8)[0]] == names


def test_names_with_other_digits_are_only_names(tmp_path: Path) -> None:
    write_photos(tmp_path, "3²4.png", "٣.png", "½.png")
    assert len(read_directory(tmp_path, 8, 8)[0]) == 3


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_a_suffix_counts_in_capitals_too(suffix: str, tmp_path: Path) -> None:
    write_photos(tmp_path, f"a{suffix}", f"B{suffix.upper()}")
    assert len(read_directory(tmp_path, 8, 8)[0]) == 2


def test_what_systems_leave_behind_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_photos(tmp_path, "a.png", ".hidden.png")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", "a.png.txt", "png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "more").mkdir()
    write_photos(tmp_path / "more", "b.png")
    paths, _ = read_directory(tmp_path, 8, 8)
    assert [path.name for path in paths] == ["a.png"]
    assert not caplog.records


def test_every_picture_that_is_left_out_is_named_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_photos(tmp_path, "good.png", "cut.png", "zz.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:40])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    paths, images = read_directory(tmp_path, 8, 8)
    assert [path.name for path in paths] == ["good.png", "zz.png"]
    assert len(images) == 2
    messages = [record.getMessage() for record in caplog.records]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    for name, message in zip(("cut.png", "folder.png", "text.jpg"), messages, strict=True):
        assert str(tmp_path / name) in message


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no directory .*nowhere"):
        read_directory(tmp_path / "nowhere", 8, 8)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"there is no directory .*a\.png"):
        read_directory(tmp_path / "a.png", 8, 8)


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["broken.jpg"], [".hidden.png"]])
def test_a_directory_without_a_readable_picture(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError) as error:
        read_directory(tmp_path, 8, 8)
    assert str(tmp_path) in str(error.value)
    assert ".png" in str(error.value)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@settings(max_examples=50)
@given(
    text=st.dictionaries(st.sampled_from(["prompt", "seed", "parameters", "a b"]), texts | st.integers() | st.floats())
)
def test_words_are_saved_with_the_picture(text: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "text.png"
    save_png(path, scene(), text)
    with Image.open(path) as file:
        assert file.format == "PNG"
        file.load()
        assert file.text == {key: str(value) for key, value in text.items()}  # type: ignore[attr-defined]
    assert pixels(read_image(path)) == pixels(scene())


def test_a_picture_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.png"
    save_png(path, scene())
    before = path.read_bytes()

    def save_half(self: Image.Image, partial: Path, **options: object) -> None:
        assert path.read_bytes() == before
        partial.write_bytes(before[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save_half)
    with pytest.raises(UserError, match=r"a\.png.*No space left"):
        save_png(path, scene(3, 3))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]

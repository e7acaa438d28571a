"""Pictures cropped to size, as tensors and back; directories of them; and the words that are saved with one."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm.data.formats import IMAGE_SUFFIXES
from ldm.data.images import fit, read_image, save_png, to_image, to_tensor
from ldm.data.photos import read_directory
from ldm.errors import UserError
from tests.data.scenes import BLUE, GREEN, RED, pixels, scene


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

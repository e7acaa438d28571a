"""Images cropped to size, as tensors and back; text chunks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm.data.images import fit_image, own_text, read_image, save_png, to_image, to_tensor
from ldm.errors import UserError
from tests.data.scenes import BLUE, GREEN, RED, pixels, scene


def stripes(colours: list[tuple[int, int, int]], side: int = 30) -> Image.Image:
    image = Image.new("RGB", (side * len(colours), side))
    for index, colour in enumerate(colours):
        image.paste(colour, (side * index, 0, side * (index + 1), side))
    return image


@pytest.mark.parametrize("upright", [False, True])
def test_images_are_cropped_to_their_centre(upright: bool) -> None:
    image = stripes([RED, GREEN, BLUE])
    image = image.transpose(Image.Transpose.ROTATE_90) if upright else image
    assert np.asarray(fit_image(image, 30, 30)).reshape(-1, 3).tolist() == [list(GREEN)] * 900


def test_both_sides_lose_the_same() -> None:
    fitted = np.asarray(fit_image(stripes([RED, GREEN, GREEN, BLUE]), 30, 90))
    assert (fitted[:, :10] == RED).all()
    assert (fitted[:, -10:] == BLUE).all()
    assert np.abs(fitted[:, 20:70].astype(int) - GREEN).max() <= 2


@settings(max_examples=50)
@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), target=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_a_fitted_image_covers_all_of_its_size(size: tuple[int, int], target: tuple[int, int]) -> None:
    height, width = target
    fitted = fit_image(Image.new("RGB", size, (10, 200, 60)), height, width)
    assert fitted.size == (width, height)
    assert (np.asarray(fitted) == (10, 200, 60)).all()


def test_nothing_is_cut_off_an_image_of_the_right_shape() -> None:
    assert pixels(fit_image(scene(6, 9), 6, 9)) == pixels(scene(6, 9))
    corners = np.asarray(fit_image(stripes([RED, BLUE], 40), 20, 40))
    assert corners[0, 0].tolist() == list(RED)
    assert corners[-1, -1].tolist() == list(BLUE)


def test_every_value_of_eight_bits_survives_a_round_trip() -> None:
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


def test_values_out_of_range_become_the_nearest_colour() -> None:
    tensor = torch.tensor([-7.0, -1.001, -1.0, 0.0, 0.999, 1.0, 1.001, 1e9]).expand(3, 1, 8)
    assert [pixel[0] for pixel in pixels(to_image(tensor))[0]] == [0, 0, 0, 128, 255, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_types_and_layouts(dtype: torch.dtype) -> None:
    tensor = to_tensor(Image.new("RGB", (5, 3), RED)).to(dtype)
    expected = [[[255, 0, 0]] * 5] * 3
    assert pixels(to_image(tensor)) == expected
    assert pixels(to_image(tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1))) == expected


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@settings(max_examples=50)
@given(
    text=st.dictionaries(st.sampled_from(["prompt", "seed", "parameters", "a b"]), texts | st.integers() | st.floats())
)
def test_text_is_saved_with_the_image(text: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "text.png"
    save_png(path, scene(), text)
    names = {key: key if key == "parameters" else f"ldm.{key}" for key in text}  # "prompt" is ComfyUI's
    with Image.open(path) as file:
        assert file.format == "PNG"
        file.load()
        assert file.text == {names[key]: str(value) for key, value in text.items()}  # type: ignore[attr-defined]
        assert all(own_text(file, key) == str(value) for key, value in text.items() if key != "parameters")
    assert pixels(read_image(path)) == pixels(scene())


def test_text_is_written_so_that_most_programs_read_it(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", scene(), {"prompt": "a caf\xe9", "negative_prompt": "— grau", "parameters": "a\nb: 1"})
    content = (tmp_path / "a.png").read_bytes()
    assert b"tEXtldm.prompt\0a caf\xe9" in content
    assert b"tEXtparameters\0a\nb: 1" in content
    assert b"iTXtldm.negative_prompt\0" in content and "— grau".encode() in content


def test_text_of_older_files_is_read(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("key", "5f")
    info.add_text("prompt", "a cat")
    scene().save(tmp_path / "a.png", pnginfo=info)
    with Image.open(tmp_path / "a.png") as file:
        assert [own_text(file, key) for key in ("key", "prompt", "seed")] == ["5f", "a cat", None]


def test_an_image_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

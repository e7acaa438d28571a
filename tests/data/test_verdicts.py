"""A verdict on each file of a folder: what can't be used and why, what is poor, what reading it has changed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from ldm.data.photos import inspect_directory
from ldm.data.verdicts import Severity, Verdict, blur_of
from tests.data.odd_images import BAD, GOOD, NO_IMAGES, save_turned

SIZE = 64


def photo(seed: int, width: int = 80, height: int = 80) -> Image.Image:
    """A sharp image of coloured boxes, another for each seed."""
    numbers = np.random.default_rng(seed)
    values = np.full((height, width, 3), numbers.integers(60, 200, 3), np.uint8)
    for _ in range(12):
        top, left = numbers.integers(0, height - 8), numbers.integers(0, width - 8)
        values[top : top + numbers.integers(8, 30), left : left + numbers.integers(8, 30)] = numbers.integers(0, 256, 3)
    return Image.fromarray(values)


def _transparent(path: Path) -> None:
    image = photo(3)
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (0, 0, 40, 80))
    image.save(path)


def _palette(path: Path) -> None:
    photo(5).quantize(32).save(path)


def _webp(path: Path) -> None:
    photo(6).save(path, save_all=True, append_images=[photo(7), photo(8)], lossless=True)


def _sixteen_bits(path: Path) -> None:
    grey = np.asarray(photo(11).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path)


def _turned(orientation: int) -> Callable[[Path], None]:
    kind = "HEIF" if orientation == 6 else "JPEG"
    return lambda path: save_turned(path, kind, orientation, photo(20 + orientation, 120, 80))


def _saved(image: Image.Image, **options: object) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


def _dark(path: Path) -> None:
    ImageEnhance.Brightness(photo(9)).enhance(0.2).save(path)


def _bright(path: Path) -> None:
    Image.fromarray(np.clip(np.asarray(photo(10)).astype(int) + 170, 0, 255).astype(np.uint8)).save(path)


NO_NOTES: list[str] = []
CROPPED = "67% used: left and right are cropped"
FILES: dict[str, tuple[Callable[[Path], None], Severity, list[str]]] = {
    "good.png": (_saved(photo(1)), Severity.NOTE, NO_NOTES),
    "good.jpg": (_saved(photo(2), quality=95), Severity.NOTE, NO_NOTES),
    "alpha.png": (_transparent, Severity.NOTE, ["50% transparent, on white"]),
    "opaque.png": (_saved(photo(30).convert("RGBA")), Severity.NOTE, NO_NOTES),
    "cmyk.jpg": (_saved(photo(4).convert("CMYK"), quality=95), Severity.NOTE, ["CMYK made sRGB"]),
    "palette.png": (_palette, Severity.NOTE, ["P made sRGB"]),
    "animated.webp": (_webp, Severity.NOTE, ["the first of 3 images in the file"]),
    "several.mpo": (
        _saved(photo(12), format="MPO", save_all=True, append_images=[photo(13)]),
        Severity.NOTE,
        ["the first of 2 images in the file"],
    ),
    "sixteen.png": (_sixteen_bits, Severity.NOTE, ["I;16 made sRGB"]),
    "dark.png": (_dark, Severity.WARNING, ["dark: 95% of it below"]),
    "bright.png": (_bright, Severity.WARNING, ["over-exposed:"]),
    "blurred.png": (
        _saved(photo(14).filter(ImageFilter.GaussianBlur(4))),
        Severity.WARNING,
        ["blurred (0."],
    ),
    "wide.png": (_saved(photo(15, 120, 80)), Severity.NOTE, [CROPPED]),
    "small.png": (_saved(photo(16, 40, 40)), Severity.NOTE, ["enlarged 1.6 times"]),
    "tiny.png": (_saved(photo(17, 12, 12)), Severity.WARNING, ["enlarged 5.33 times"]),
    "long.png": (_saved(photo(18, 8000, 100)), Severity.WARNING, ["1% used: left and right are cropped"]),
    "tall.png": (_saved(photo(19, 80, 160)), Severity.NOTE, ["50% used: top and bottom are cropped"]),
    "twin-1.png": (_saved(photo(31)), Severity.NOTE, NO_NOTES),
    "twin-2.jpg": (_saved(photo(31), quality=60), Severity.WARNING, ["nearly the same as twin-1.png"]),
    **{
        f"exif-{number}.{'heic' if number == 6 else 'jpg'}": (
            _turned(number),
            Severity.NOTE,
            [*([f"turned upright (EXIF {number})"] if number > 1 else []), CROPPED],
        )
        for number in range(1, 9)
    },
    "cut.jpg": (BAD["cut.jpg"], Severity.ERROR, ["truncated"]),
    "html.jpg": (BAD["html.jpg"], Severity.ERROR, ["not used: text"]),
    "bomb.png": (BAD["bomb.png"], Severity.ERROR, ["which is no photo"]),
    "line.png": (GOOD["line.png"], Severity.WARNING, ["enlarged 64 times", "used: left and right are cropped"]),
    **{
        name: (lambda path, content=content: path.write_bytes(content), severity, [reason])
        for name, severity in (
            ("notes.txt", Severity.NOTE),
            ("clip.mp4", Severity.ERROR),
            ("empty.jpg", Severity.ERROR),
        )
        for content, reason in (NO_IMAGES[name],)
    },
}
"""Odd files of a folder: how each is made, the worst that is found about it, and the words that say what."""


def write_odd_folder(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for name, (write, _, _) in FILES.items():
        write(directory / name)
    return directory


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    folder = write_odd_folder(tmp_path_factory.mktemp("odd"))
    return {one.path.name: one for one in inspect_directory(folder, SIZE, SIZE)}


def test_the_folder_has_all_kinds(verdicts: dict[str, Verdict]) -> None:
    assert len(FILES) >= 30
    assert verdicts.keys() == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_verdict(name: str, verdicts: dict[str, Verdict]) -> None:
    _, severity, expected = FILES[name]
    found = verdicts[name]
    assert found.severity == severity
    assert len(found.findings) == len(expected)
    for words, one in zip(expected, found.findings, strict=True):
        assert words in one.words
    assert (found.crop is None) == (severity == Severity.ERROR or name == "notes.txt")
    assert found.crop is None or found.crop.size == (SIZE, SIZE)


def test_photos_from_other_sides_are_no_duplicates(tmp_path: Path) -> None:
    for seed in range(6):
        photo(seed).save(tmp_path / f"{seed}.png")
    assert all(one.is_good for one in inspect_directory(tmp_path, SIZE, SIZE))


def test_more_blur_is_a_larger_number() -> None:
    image = photo(1, 256, 256)
    values = [blur_of(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)).convert("L"))) for radius in range(5)]
    assert values[0] < 0.3 < values[1] < 0.6 < min(values[2:])
    assert blur_of(np.full((8, 8), 9)) == 0

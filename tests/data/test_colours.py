"""Colours are read right: sample types by their range, profiles as sRGB."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ldm.data import colours
from ldm.data.colours import Scale, scale_of
from ldm.data.images import read_image
from ldm.errors import UserError
from tests.data.odd_images import GOOD, grey_ramp, tiff
from tests.data.profiles import (
    ADOBE_D50,
    DISPLAY_P3_D50,
    PROPHOTO_D50,
    SRGB_D50,
    cmyk_profile,
    grey_profile,
    linear_to_srgb,
    rgb_profile,
    srgb_to_linear,
)
from tests.data.scenes import pixels, scene

RAMPS = [name for name in GOOD if name.startswith(("int", "uint", "float"))]


@pytest.mark.parametrize("name", RAMPS)
def test_every_sample_type_goes_from_black_to_white(name: str, tmp_path: Path) -> None:
    GOOD[name](tmp_path / name)
    row = np.asarray(read_image(tmp_path / name))[0].astype(int)
    assert np.abs(row - np.linspace(0, 255, 16)[:, None]).max() <= 1


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale"),
    [
        (0, 1, "float32", Scale(0, 1)),
        (0, 0.02, "float32", Scale(0, 1)),  # a dark image stays dark
        (0, 255, "float32", Scale(0, 255)),
        (3, 65535, "float32", Scale(0, 65535)),
        (0, 255, "int32", Scale(0, 255)),
        (0, 40000, "uint32", Scale(0, 65535)),
        (0, 32767, "int16", Scale(0, 32767)),
        (0, 127, "int8", Scale(0, 127)),
        (0, 0, "int32", Scale(0, 255)),
        (0, 1, "int32", None),  # a mask
        (0, 4095, "int32", None),  # 12 bits
        (0, 7.5, "float32", None),  # more than white
        (-1, 1, "float32", None),
        (-5, 70000, "int32", None),
    ],
)
def test_the_range_decides_the_scale(low: float, high: float, dtype: str, scale: Scale | None) -> None:
    assert scale_of(low, high, np.dtype(dtype)) == scale


def test_a_range_of_no_known_scale_is_stretched_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiff(tmp_path / "odd.tif", grey_ramp(np.int32, 4095))
    for _ in range(2):  # one warning, however often the file is read
        assert pixels(read_image(tmp_path / "odd.tif"))[0][15] == [255, 255, 255]
    [record] = caplog.records
    assert f"{tmp_path / 'odd.tif'} holds int32 values from 0 to 4095" in record.getMessage()


def test_all_of_one_value_is_black_or_what_it_is(tmp_path: Path) -> None:
    for value, grey in ((0.0, 0), (0.5, 128), (-3.0, 0)):
        tiff(tmp_path / f"{value}.tif", np.full((2, 2), value, np.float32))
        assert pixels(read_image(tmp_path / f"{value}.tif"))[0][0] == [grey] * 3


def test_dark_sixteen_bits_are_kept_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(grey_ramp(np.uint16, 4095)).save(tmp_path / "dark.png")
    assert pixels(read_image(tmp_path / "dark.png"))[0][15] == [15, 15, 15]
    assert "dark.png is dark: its brightest value is 4095 of 65535" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    values = grey_ramp(np.float32, 1.0)
    values[1, 1] = value
    tiff(tmp_path / "a.tif", values)
    with pytest.raises(UserError, match=r"a\.tif is not a readable image: it holds numbers that are not finite"):
        read_image(tmp_path / "a.tif")


def test_sixteen_bits_of_colour(tmp_path: Path) -> None:
    for order in "<>":
        tiff(tmp_path / "a.tif", np.asarray(scene()).astype(np.uint16) * 257, order)
        assert pixels(read_image(tmp_path / "a.tif")) == pixels(scene())


def test_premultiplied_alpha_over_white(tmp_path: Path) -> None:
    # Half of opaque (200, 100, 0), stored premultiplied.
    tiff(tmp_path / "a.tif", np.tile(np.array([100, 50, 0, 128], np.uint8), (2, 2, 1)), extra=1)
    assert np.abs(np.array(pixels(read_image(tmp_path / "a.tif"))[0][0]) - (227, 177, 127)).max() <= 1


def test_lab(tmp_path: Path) -> None:
    GOOD["lab.tif"](tmp_path / "lab.tif")
    assert np.abs(np.array(pixels(read_image(tmp_path / "lab.tif"))[0][0]) - (255, 0, 0)).max() <= 12  # rounded Lab


def test_ycbcr(tmp_path: Path) -> None:
    GOOD["ycbcr.tif"](tmp_path / "a.tif")
    assert np.abs(np.asarray(read_image(tmp_path / "a.tif")).astype(int) - np.asarray(scene(16, 16))).max() <= 3


# Colour profiles


def colourful() -> Image.Image:
    """Colours of medium strength."""
    values = np.random.default_rng(0).integers(90, 166, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(values)


def expected(image: Image.Image, matrix: np.ndarray, gamma: float | None) -> np.ndarray:
    """The same colours in sRGB, by the definition of both spaces."""
    values = np.asarray(image) / 255.0
    linear = srgb_to_linear(values) if gamma is None else values ** (round(gamma * 256) / 256)
    return linear_to_srgb(np.clip(linear @ (np.linalg.inv(SRGB_D50) @ matrix).T, 0, 1)) * 255.0


@pytest.mark.parametrize(
    ("matrix", "gamma"),
    [(DISPLAY_P3_D50, None), (ADOBE_D50, 2.2), (PROPHOTO_D50, 1.8)],
    ids=["display-p3", "adobe-rgb", "prophoto"],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_wide_gamut_becomes_srgb(kind: str, matrix: np.ndarray, gamma: float | None, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    colourful().save(tmp_path / "a", kind, icc_profile=rgb_profile(matrix, gamma), **options)
    read = np.asarray(read_image(tmp_path / "a")).astype(float)
    assert np.abs(read - expected(colourful(), matrix, gamma)).max() < 2
    assert np.abs(read - np.asarray(colourful())).max() > 5


@pytest.mark.parametrize("size", [2, 32])
def test_transparency_and_palettes_are_converted_too(size: int, tmp_path: Path) -> None:
    profile = rgb_profile(DISPLAY_P3_D50)
    flat = Image.new("RGB", (size, size), (120, 150, 100))
    right = expected(flat, DISPLAY_P3_D50, None)[0, 0]
    with_alpha = flat.copy()
    with_alpha.putalpha(Image.new("L", flat.size, 255))
    with_alpha.putpixel((0, 0), (120, 150, 100, 0))
    with_alpha.save(tmp_path / "alpha.png", icc_profile=profile)
    flat.quantize(4).save(tmp_path / "palette.png", icc_profile=profile)
    assert np.abs(np.array(pixels(read_image(tmp_path / "alpha.png"))[1][1]) - right).max() < 2
    assert pixels(read_image(tmp_path / "alpha.png"))[0][0] == [255, 255, 255]
    assert np.abs(np.array(pixels(read_image(tmp_path / "palette.png"))[1][1]) - right).max() < 2


def pillows_srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("profile", [rgb_profile(SRGB_D50), pillows_srgb()], ids=["table", "pillow"])
def test_srgb_keeps_its_bits(profile: bytes, tmp_path: Path) -> None:
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG"):
        colours.save(tmp_path / "with", kind, icc_profile=profile)
        colours.save(tmp_path / "without", kind)
        assert pixels(read_image(tmp_path / "with")) == pixels(read_image(tmp_path / "without"))
    colours.convert("L").save(tmp_path / "grey", "PNG", icc_profile=profile)  # grey, with a profile for colours
    assert pixels(read_image(tmp_path / "grey")) == pixels(colours.convert("L").convert("RGB"))


def test_grey_by_its_profile(tmp_path: Path) -> None:
    Image.fromarray(grey_ramp(np.uint8, 255)).save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    row = np.asarray(read_image(tmp_path / "a.png"))[0].astype(float)
    assert np.abs(row - linear_to_srgb(grey_ramp(np.uint8, 255)[0][:, None] / 255.0) * 255.0).max() < 2


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])  # Photoshop's JPEGs are inverted, and so are Pillow's
def test_inks_by_their_profile(kind: str, tmp_path: Path) -> None:
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    inks.save(tmp_path / "with", kind, icc_profile=cmyk_profile())
    inks.save(tmp_path / "without", kind)
    cyan = Image.new("LAB", (1, 1), (140, 128 - 30, 128 - 40))  # as the profile says: Lab (55, -30, -40)
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    right = np.asarray(ImageCms.applyTransform(cyan, transform))[0, 0].astype(int)
    assert np.abs(np.array(pixels(read_image(tmp_path / "with"))[8][8]) - right).max() < 6
    assert np.abs(np.array(pixels(read_image(tmp_path / "without"))[8][8]) - (0, 255, 255)).max() < 3


@pytest.mark.parametrize(
    "profile",
    [b"no profile", rgb_profile(DISPLAY_P3_D50)[:200], cmyk_profile(), bytes(400)],
    ids=["text", "cut", "for inks", "zeros"],
)
def test_a_profile_that_can_not_be_used_is_named(
    profile: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    colourful().save(tmp_path / "a.png", icc_profile=profile)
    assert pixels(read_image(tmp_path / "a.png")) == pixels(colourful())
    read_image(tmp_path / "a.png")
    [record] = caplog.records
    assert f"{tmp_path / 'a.png'}: its colour profile is ignored" in record.getMessage()


def test_without_littlecms_there_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(colours.features, "check", lambda feature: feature != "littlecms2")
    for name in ("a.png", "b.png"):
        colourful().save(tmp_path / name, icc_profile=rgb_profile(DISPLAY_P3_D50))
        assert pixels(read_image(tmp_path / name)) == pixels(colourful())
    [record] = caplog.records
    assert "no LittleCMS" in record.getMessage()
    GOOD["lab.tif"](tmp_path / "lab.tif")
    with pytest.raises(UserError, match=r"lab\.tif is in Lab colours, which need a Pillow with LittleCMS"):
        read_image(tmp_path / "lab.tif")


def test_a_heic_photo_of_a_phone(tmp_path: Path) -> None:
    import pillow_heif

    flat = Image.new("RGB", (64, 64), (120, 150, 100))
    photo = pillow_heif.from_pillow(flat)
    photo.info["icc_profile"], photo.info["icc_profile_type"] = rgb_profile(DISPLAY_P3_D50), "prof"
    photo.save(tmp_path / "IMG_1.HEIC", quality=95)
    with io.BytesIO((tmp_path / "IMG_1.HEIC").read_bytes()) as stream:
        assert pillow_heif.open_heif(stream).info["icc_profile"]
    right = expected(flat, DISPLAY_P3_D50, None)[0, 0]
    assert np.abs(np.array(pixels(read_image(tmp_path / "IMG_1.HEIC"))[30][30]) - right).max() < 4

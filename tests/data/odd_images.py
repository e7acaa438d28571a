"""Files that turn up in folders of photos, odd ones each, by name; written on demand, the repository holds none."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from tests.data.profiles import DISPLAY_P3_D50, cmyk_profile, grey_profile, rgb_profile
from tests.data.scenes import scene

ORIENTATION = 0x0112

# EXIF 2.3, tag 0x0112: which visual side the stored image's row 0 and column 0 are.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda visual: visual,  # top, left
    2: lambda visual: visual[:, ::-1],  # top, right
    3: lambda visual: visual[::-1, ::-1],  # bottom, right
    4: lambda visual: visual[::-1],  # bottom, left
    5: lambda visual: visual.swapaxes(0, 1),  # left, top
    6: lambda visual: visual[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda visual: visual[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda visual: visual[::-1].swapaxes(0, 1),  # left, bottom
}


def turned(orientation: int, visual: Image.Image | None = None) -> tuple[Image.Image, Image.Exif]:
    """The image as a camera stores it that is held so, and the tag that says so."""
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(visual or scene()))))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return stored, exif


def save_turned(path: Path, kind: str, orientation: int, visual: Image.Image) -> None:
    """Writes a turned image in one of TURNED."""
    stored, exif = turned(orientation, visual)
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(stored).save(path, quality=95, exif=exif.tobytes())
    elif kind == "MPO":
        stored.save(path, "MPO", quality=95, exif=exif, save_all=True, append_images=[stored.transpose(2)])
    elif kind == "TIFF":
        stored.save(path, "TIFF", tiffinfo={ORIENTATION: orientation})
    elif kind == "TIFF of two pages":
        pages = [stored.transpose(2)]
        stored.save(path, "TIFF", tiffinfo={ORIENTATION: orientation}, save_all=True, append_images=pages)
    elif kind == "TIFF, compressed":
        stored.save(path, "TIFF", compression="tiff_lzw", tiffinfo={ORIENTATION: orientation})
    else:
        stored.save(path, kind, quality=95, exif=exif)


TURNED = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "TIFF of two pages", "TIFF, compressed", "AVIF", "HEIF")


def tiff(path: Path, values: np.ndarray, order: str = "<", samples_format: int | None = None, **tags: int) -> None:
    """An uncompressed TIFF of these values (h w) or (h w c), byte by byte, as microscopes and maps write them."""
    kinds = {"u": 1, "i": 2, "f": 3}
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = values.dtype.itemsize * 8
    short, count = 3, channels
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, short, count, bits), (259, short, 1, 1)),
        *((262, short, 1, 2 if channels >= 3 else 1), (273, 4, 1, 8), (277, short, 1, channels)),
        *((278, 4, 1, height), (279, 4, 1, len(data)), (284, short, 1, 1)),
        *([(338, short, 1, tags["extra"])] if "extra" in tags else []),
        (339, short, count, samples_format or kinds[values.dtype.kind]),
    ]
    after = 8 + len(data) + len(data) % 2
    far, table = b"", struct.pack(order + "H", len(entries))
    for tag, kind, number, value in entries:
        table += struct.pack(order + "HHI", tag, kind, number)
        if kind == short and number > 2:
            table += struct.pack(order + "I", after + 2 + 12 * len(entries) + 4 + len(far))
            far += struct.pack(f"{order}{number}H", *[value] * number)
        elif kind == short:
            table += struct.pack(f"{order}{number}H", *[value] * number).ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", value)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", after)
    path.write_bytes(start + data + bytes(len(data) % 2) + table + bytes(4) + far)


def png(width: int, height: int, data: bytes, mode: int = 2, depth: int = 8, more: bytes = b"") -> bytes:
    """A PNG that claims this size, whatever its data are."""
    header = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
    compressed = zlib.compress(data, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def grey_ramp(dtype: type, white: float) -> np.ndarray:
    """From black to white over 16 columns."""
    return np.tile(np.linspace(0, white, 16).astype(dtype), (4, 1))


def _saved(**options: object) -> Callable[[Path], None]:
    return lambda path: Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(path, **options)


def _mode(mode: str, **options: object) -> Callable[[Path], None]:
    return lambda path: scene(16, 16).convert(mode).save(path, **options)


def _animated(kind: str) -> Callable[[Path], None]:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    return lambda path: frames[0].save(path, kind, save_all=True, append_images=frames[1:])


def _qoi(path: Path) -> None:
    pixels = b"".join(b"\xfe" + bytes([8, 8, 8]) for _ in range(24 * 16))
    path.write_bytes(b"qoif" + struct.pack(">IIBB", 24, 16, 3, 0) + pixels + bytes(7) + b"\1")


def _lab(path: Path) -> None:
    image = Image.merge("LAB", [Image.new("L", (8, 8), value) for value in (136, 208, 195)])  # sRGB's red
    image.save(path, "TIFF")


GOOD: dict[str, Callable[[Path], None]] = {
    "int16.tif": lambda path: tiff(path, grey_ramp(np.int16, 32767)),
    "int16-big-endian.tif": lambda path: tiff(path, grey_ramp(np.int16, 32767), ">"),
    "int32.tif": lambda path: tiff(path, grey_ramp(np.int32, 65535)),
    "int32-wide.tif": lambda path: tiff(path, grey_ramp(np.int32, 2**30)),
    "int8-negative.tif": lambda path: tiff(path, (grey_ramp(np.int16, 255) - 128).astype(np.int8)),
    "uint16.tif": lambda path: tiff(path, grey_ramp(np.uint16, 65535)),
    "uint16-big-endian.tif": lambda path: tiff(path, grey_ramp(np.uint16, 65535), ">"),
    "uint32.tif": lambda path: tiff(path, grey_ramp(np.uint32, 2**32 - 1)),
    "float-unit.tif": lambda path: tiff(path, grey_ramp(np.float32, 1.0)),
    "float-bytes.tif": lambda path: tiff(path, grey_ramp(np.float32, 255.0)),
    "float-big-endian.tif": lambda path: tiff(path, grey_ramp(np.float32, 1.0), ">"),
    "float-signed.tif": lambda path: tiff(path, grey_ramp(np.float32, 2.0) - 1.0),
    "rgb16.tif": lambda path: tiff(path, np.asarray(scene(16, 16)).astype(np.uint16) * 257),
    "premultiplied.tif": lambda path: tiff(path, np.full((4, 4, 4), 128, np.uint8), extra=1),
    "cmyk.jpg": _mode("CMYK", quality=95),
    "cmyk-profile.jpg": _mode("CMYK", quality=95, icc_profile=cmyk_profile()),
    "cmyk.tif": _mode("CMYK"),
    "ycbcr.tif": _mode("YCbCr", compression="tiff_lzw"),
    "lab.tif": _lab,
    "bilevel.png": _mode("1"),
    "grey.png": _mode("L"),
    "grey-profile.png": _mode("L", icc_profile=grey_profile(1.0)),
    "grey-alpha.png": _mode("LA"),
    "palette.gif": _mode("P"),
    "display-p3.jpg": _saved(icc_profile=rgb_profile(DISPLAY_P3_D50)),
    "damaged-profile.jpg": _saved(icc_profile=b"no profile at all" * 20),
    "animated.gif": _animated("GIF"),
    "animated.webp": _animated("WEBP"),
    "animated.png": _animated("PNG"),
    "pages.tif": _animated("TIFF"),
    "several.mpo": lambda path: save_turned(path, "MPO", 1, Image.new("RGB", (8, 8), "red")),
    "a.jp2": _saved(format="JPEG2000"),
    "a.tga": _saved(format="TGA"),
    "a.jpe": _saved(format="JPEG"),
    "a.ppm": _saved(format="PPM"),
    "a.JPG": _saved(format="JPEG"),
    "a.qoi": _qoi,
    "a.dds": _saved(format="DDS"),
    "a.pcx": _saved(format="PCX"),
    "a.sgi": _saved(format="SGI"),
    "no-suffix": _saved(format="PNG"),
    "a-png.jpg": _saved(format="PNG"),
    "a-jpeg.txt": _saved(format="JPEG"),
    "one-pixel.png": lambda path: Image.new("RGB", (1, 1), "red").save(path),
    "long.png": lambda path: Image.new("RGB", (8000, 100), "red").save(path),
    "line.png": lambda path: Image.new("RGB", (100000, 1), "red").save(path),
}
"""Odd images that can be read, by the names of their files."""


def _nan(path: Path) -> None:
    values = grey_ramp(np.float32, 1.0)
    values[0, 0] = np.nan
    tiff(path, values)


def _cut(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


BAD: dict[str, Callable[[Path], None]] = {
    "not-finite.tif": _nan,
    "float64.tif": lambda path: tiff(path, grey_ramp(np.float64, 1.0)),
    "bomb.png": lambda path: path.write_bytes(png(100_000, 100_000, bytes(1000))),
    "bomb-grey.png": lambda path: path.write_bytes(png(2**31 - 1, 2**31 - 1, bytes(1000), mode=0)),
    "bomb.tif": lambda path: _claim_tiff(path, 100_000),
    "cut.jpg": _cut("JPEG"),
    "cut.png": _cut("PNG"),
    "cut.tif": _cut("TIFF"),
    "cut.webp": _cut("WEBP"),
    "html.jpg": lambda path: path.write_text("<!DOCTYPE html><p>404"),
    "zeros.png": lambda path: path.write_bytes(bytes(1000)),
}
"""Files that seem to be images and can't be read."""


def _claim_tiff(path: Path, side: int) -> None:
    Image.new("1", (8, 8)).save(path, "TIFF", tiffinfo={TiffImagePlugin.ROWSPERSTRIP: side}, compression="group4")
    content = bytearray(path.read_bytes())
    for tag in (256, 257):
        at = next(
            i for i in range(8, len(content) - 12) if struct.unpack_from("<HH", content, i) in [(tag, 3), (tag, 4)]
        )
        content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side)
    path.write_bytes(content)


NO_IMAGES: dict[str, tuple[bytes, str]] = {
    "notes.txt": (b"remember the milk\n", "text"),
    "photo.json": (b'{"caption": "a can"}', "text"),
    "photo.yaml": ("caption: une chèvre\n".encode(), "text"),
    "Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "no images"),
    "clip.mp4": (b"\0\0\0\x18ftypmp42" + bytes(100), "videos"),
    "clip.mkv": (b"\x1aE\xdf\xa3" + bytes(100), "videos"),
    "clip.avi": (b"RIFF\0\0\0\0AVI LIST" + bytes(100), "videos"),
    "scan.pdf": (b"%PDF-1.7\n" + bytes(100), "documents or drawings"),
    "logo.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "documents or drawings"),
    "logo.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "documents or drawings"),
    "logo.wmf": (b"\xd7\xcd\xc6\x9a" + bytes(100), "no images"),
    "shot.nef": (b"II*\0" + bytes(100), "cameras' raw files"),
    "empty.jpg": (b"", "empty files"),
}
"""Other files of such folders: their content, and what messages call them."""

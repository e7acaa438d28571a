"""Recognises image files by their content, not their names, and says what other files are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile

from ldm.errors import UserError
from ldm.user_files import open_regular, path_kind

FORMATS = (
    *("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF", "JPEG2000"),
    *("PPM", "PSD", "QOI", "SGI", "PCX", "DDS", "TGA"),
)
"""The decoders that a file of unknown origin may reach, by their names in Pillow, in the order in which they are tried.

Excluded are those that start other programs (EPS), use the system's drawing (WMF) or are not for photos.
"""

READABLE = "JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF, HEIC, JPEG 2000, TGA, PPM and others"

IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
        *(".gif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".tga", ".ppm", ".pgm"),
    ]
)
"""Suffixes of images. In folders of many files they are trusted without opening each file."""

HEAD_BYTES, TGA_FOOTER, TGA_SUFFIXES = 512, b"TRUEVISION-XFILE.\0", frozenset([".tga", ".icb", ".vda", ".vst"])

AVIF_BRANDS = frozenset([b"avif", b"avis"])
HEIF_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"])

RAW_SUFFIXES = frozenset(
    [
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mef"),
        *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srw"),
    ]
)
"""Cameras' raw files. Many are TIFFs, of which Pillow would read the tiny preview."""

TEXT, RAW, EMPTY, VIDEO = "text", "cameras' raw files: export them as JPEG or TIFF", "empty files", "videos"
DRAWING, JPEG_XL, OTHER = "documents or drawings", "JPEG XL, which is not read: save it as PNG or JPEG", "no images"


class DamagedImageError(UserError):
    """A file that begins like an image of some format but can't be read."""


def open_image(stream: BinaryIO, path: Path) -> ImageFile.ImageFile:
    """Reads an image's header only. Raises `UserError` if it can't be read.

    This is `PIL.Image.open` without its limit on pixels, which depends neither on the machine nor on the file's size;
    `ldm.data.images` has its own limit.
    """
    head = stream.read(HEAD_BYTES)
    if (reason := _foreign(path, head)) is not None:
        raise UserError(f"{path} is not a readable image ({reason})")
    damaged: DamagedImageError | None = None
    for name in FORMATS:
        if not _claims(name, head, stream, path):
            continue
        try:
            return _open_as(name, stream, path)
        except DamagedImageError as error:  # it may be of another format
            damaged = damaged or error
    if damaged is not None:
        raise damaged
    raise UserError(f"{path} is not a readable image ({_what_else(head)})")


def _open_as(name: str, stream: BinaryIO, path: Path) -> ImageFile.ImageFile:
    factory = _factory(name, path)
    stream.seek(0)
    try:
        return factory(stream, "")  # without a file name a decoder can't open the file again
    except Image.DecompressionBombError:
        raise
    except Exception as error:  # whatever a damaged header makes a decoder raise
        raise DamagedImageError(f"{path} is not a readable image: {error}") from error


def unused_reason(path: Path) -> str | None:
    """None if the first bytes are an image's; else what the file is, such as "text" or "a named pipe"."""
    try:
        if (kind := path_kind(path)) is not None:
            return kind
        with open_regular(path) as stream:
            head = stream.read(HEAD_BYTES)
            if (reason := _foreign(path, head)) is not None:
                return reason
            return None if any(_claims(name, head, stream, path) for name in FORMATS) else _what_else(head)
    except FileNotFoundError:
        return "links to nothing"
    except OSError as error:
        return f"could not be opened: {error.strerror}"


def _claims(name: str, head: bytes, stream: BinaryIO, path: Path) -> bool:
    """Whether a format's decoder should try a file that begins with `head`."""
    if name == "HEIF":
        return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS
    if name == "AVIF":
        return head[4:8] == b"ftyp" and (head[8:12] in AVIF_BRANDS or bool(AVIF_BRANDS & {head[16:20], head[20:24]}))
    if name == "TGA":  # has no magic bytes: its decoder would accept many files
        return path.suffix.lower() in TGA_SUFFIXES or _ends_with(stream, TGA_FOOTER)
    _, accept = _registered(name)
    return accept is None or accept(head[:16]) is True


def _ends_with(stream: BinaryIO, end: bytes) -> bool:
    if os.fstat(stream.fileno()).st_size < len(end):
        return False
    stream.seek(-len(end), os.SEEK_END)
    return stream.read() == end


def _factory(name: str, path: Path) -> Callable[[BinaryIO, str], ImageFile.ImageFile]:
    if name == "HEIF":
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise UserError(f"{path} is HEIC, which pillow-heif reads: pip install pillow-heif") from None
        factory: Callable[[BinaryIO, str], ImageFile.ImageFile] = HeifImageFile
        return factory
    if name == "AVIF" and name not in _registry():
        raise UserError(f"{path} is AVIF, which Pillow reads from version 11.3: pip install -U pillow")
    return _registered(name)[0]


def _registered(name: str) -> tuple[Callable[[BinaryIO, str], ImageFile.ImageFile], Callable[[bytes], object] | None]:
    factory, accept = _registry()[name]
    return factory, accept


def _registry() -> dict[str, tuple[Callable, Callable | None]]:
    """Pillow's decoders and their tests of a file's first bytes, by name."""
    if "QOI" not in Image.OPEN:  # before, only the usual ones are loaded, or none
        Image.init()
    return Image.OPEN


def _foreign(path: Path, head: bytes) -> str | None:
    """What a file is if a decoder could mistake it for an image; else None."""
    if not head:
        return EMPTY
    is_raw = path.suffix.lower() in RAW_SUFFIXES and head[:2] not in (b"\xff\xd8", b"\x89P")  # no renamed JPEG or PNG
    if is_raw or head[8:11] == b"CR\2":
        return RAW
    return None


def _what_else(head: bytes) -> str:
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return VIDEO
    if head[:2] == b"\xff\x0a" or head[4:8] == b"JXL ":
        return JPEG_XL
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"%pdf", b"%!ps", b"<svg", b"<?xml")) or head[:4] == b"\xc5\xd0\xd3\xc6":
        return DRAWING
    return TEXT if _is_text(head) else OTHER


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", "strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return False
    return not any(letter < " " and letter not in "\t\n\r\f" for letter in text)

"""Flags that are paths: what can be checked before a command begins."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from ldm.disk import unwritable
from ldm.user_files import is_diffusers_directory, path_kind

MOST_BYTES, MOST_NAME_BYTES = 4096, 255
"""Bytes of a path and of each name in it, at most, on Linux."""
ROOM = 512
"""Bytes that are left for the names of files below a directory."""


def place(text: str) -> Path:
    """A parser of paths that a file system can hold."""
    if not text:
        raise argparse.ArgumentTypeError("should be a path, not empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError("holds a null character, which no path does")
    path = Path(text)
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        length = len(os.fsencode(path.absolute()))
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("holds a surrogate, which no path does") from None
    if longest > MOST_NAME_BYTES or length > MOST_BYTES - ROOM:
        raise argparse.ArgumentTypeError(
            f"is too long for a path: {text[:30]}... has {length} bytes, and a name of {longest} bytes in it; "
            f"at most {MOST_BYTES - ROOM}, and {MOST_NAME_BYTES} a name"
        )
    return path


def _checked(check: Callable[[Path], str | None]) -> Callable[[str], Path]:
    def parse(text: str) -> Path:
        path = place(text)
        try:
            fault = check(path)
        except OSError as error:  # such as a loop of links, or a directory that may not be looked into
            fault = f"can't be used: {error.strerror}"
        if fault:
            raise argparse.ArgumentTypeError(f"{path} {fault}")
        return path

    return parse


def _no_file(path: Path) -> str | None:
    return "is a directory; a file is needed" if path.is_dir() else None


def _no_checkpoint(path: Path) -> str | None:
    several = path.is_dir() and not is_diffusers_directory(path)
    return "is a directory; a file or a diffusers directory is needed" if several else None


def _no_directory(path: Path) -> str | None:
    if not path.exists() or path.is_dir():
        return None
    return f"is {path_kind(path) or 'a file'}; a directory is needed"


def is_url(text: str) -> bool:
    """Whether it is the address of a file on the web."""
    return text.lower().startswith(("http://", "https://"))


def source(text: str) -> Path | str:
    """A parser of a folder, an archive or the URL of an archive; a URL stays text."""
    return text if is_url(text) else _checked(_no_source)(text)


def _no_source(path: Path) -> str | None:
    """What is in a file is checked when it is unpacked."""
    if not path.exists() or path.is_dir() or path.is_file():
        return None
    return f"is {path_kind(path) or 'no file'}; a directory or an archive is needed"


def _not_writable(path: Path) -> str | None:
    """The fault of a path to create: the part of it that exists should be a directory that can be written into."""
    return f"can't be written: {fault}" if (fault := unwritable(path)) is not None else None


HEAVIEST = 100.0
"""The largest weight of a LoRA file."""


def split_lora(text: str) -> tuple[Path, float]:
    """FILE[:WEIGHT] as a path and a weight, which is 1 if it isn't given."""
    name, colon, tail = text.rpartition(":")
    try:
        weight = float(tail)
    except ValueError:
        return place(text), 1.0
    if not colon or Path(text).is_file():
        return place(text), 1.0
    if not abs(weight) <= HEAVIEST:
        raise argparse.ArgumentTypeError(f"should have a weight from -{HEAVIEST:g} to {HEAVIEST:g}, not {tail[:40]}")
    return place(name), weight


def split_embedding(text: str) -> tuple[Path, str]:
    """FILE[:TOKEN] as a path and a word, which is empty if it isn't given."""
    name, colon, token = text.rpartition(":")
    if not (colon and name and token) or Path(text).is_file():
        return place(text), ""
    return place(name), token


def _embedding(text: str) -> str:
    path, _ = split_embedding(text)
    FILE(str(path))
    return text


def _lora(text: str) -> str:
    path, _ = split_lora(text)
    name, colon, tail = text.rpartition(":")
    if colon and not path.exists() and Path(name).is_file():
        raise argparse.ArgumentTypeError(f"should have a number behind its last colon, not {tail[:40]!r}")
    FILE(str(path))
    return text


FILE = _checked(_no_file)
CHECKPOINT = _checked(_no_checkpoint)
DIRECTORY = _checked(_no_directory)
OUTPUT = _checked(_not_writable)
LORA = _lora
"""A parser of FILE[:WEIGHT], which stays text."""
EMBEDDING = _embedding
"""A parser of FILE[:TOKEN], which stays text."""

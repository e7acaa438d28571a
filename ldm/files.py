"""Writing files whole: under a temporary name, flushed to the disk, then renamed. A half-written file is never seen."""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ldm.disk import write_error
from ldm.errors import UserError
from ldm.leftovers import temporary_directory

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, where `configs/` and `weights/` lie."""

_UMASK = threading.Lock()


@contextmanager
def atomic_path(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yields a temporary path near `path`; it becomes `path` when the block ends without an error.

    `size`: bytes of the file, if known, for the message when the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_directory(path.parent) as directory:
            partial = directory / path.name
            yield partial
            _flush(partial)
            partial.replace(path)
    except OSError as error:
        raise write_error(path, error, size) from error


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory; with what is written to it, it becomes `path` when the block ends without an error.

    Raises `UserError` if `path` exists and isn't an empty directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_directory(path.parent) as directory:
            partial = directory / path.name
            partial.mkdir()
            yield partial
            for file in partial.rglob("*"):
                if not file.is_dir():
                    _flush(file)
            partial.replace(path)
    except OSError as error:
        raise write_error(path, error) from error


def _flush(path: Path) -> None:
    """Flushes the file to the disk and gives it the permissions of the umask."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o666 & ~_umask())  # some libraries create private files


def _umask() -> int:
    """The process's umask. It can only be read by setting it: by one thread at a time, or 0 might remain."""
    with _UMASK:
        mask = os.umask(0)
        os.umask(mask)
    return mask


@contextmanager
def openable(path: Path) -> Iterator[Path]:
    """A name of an existing file or directory for libraries that take UTF-8 names only: the path itself if it is UTF-8.

    Another one is opened and named by its descriptor while the block lasts. Files that the library opened stay open.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield Path(f"/dev/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        yield path


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def natural_key(path: Path) -> list[tuple[int, str]]:
    """A sorting key by which `run-2` comes before `run-10`."""
    return [(int(piece) if piece.isdecimal() else 0, piece) for piece in re.split(r"(\d+)", str(path).lower())]


def slug(text: str, max_bytes: int = 60) -> str:
    """A name for files: "a photo of sks can!" -> "a-photo-of-sks-can". Never empty; letters of any script."""
    dashed = re.sub(r"[^\w]+", "-", text.lower()).strip("-")
    return dashed.encode()[:max_bytes].decode(errors="ignore").strip("-") or "untitled"


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names, and how many more there are: "a, b and 3 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def make_numbered_dir(parent: Path, stem: str) -> Path:
    """Creates `parent/stem-<n>` with n above every existing one; two processes never get the same."""
    try:
        entries = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    except OSError as error:
        raise UserError(f"could not read the directory {parent}: {error.strerror or error}") from error
    taken = [int(match[1]) for name in entries if (match := re.fullmatch(re.escape(stem) + r"-(\d+)", name))]
    number = max(taken, default=0) + 1
    while True:
        try:
            (directory := parent / f"{stem}-{number}").mkdir(parents=True)
            return directory
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(f"could not create {directory}: {error.strerror or error}") from error

"""Writing files whole: under a temporary name, flushed to the disk, then renamed. A half-written file is never seen."""

import contextlib
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ldm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, where `configs/` and `weights/` lie."""

PARTIAL_SUFFIX = ".partial"

_UMASK = threading.Lock()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it becomes `path` when the block ends without an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())  # some writers make private files
        partial.replace(path)
    except OSError as error:
        raise UserError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _umask() -> int:
    """The process's umask, which can only be read by setting it: by one thread at a time, or 0 might stay."""
    with _UMASK:
        mask = os.umask(0)
        os.umask(mask)
    return mask


def open_file(path: Path, what: str = "file") -> BinaryIO:
    """Opens a file to read its bytes.

    Raises `UserError` if it is not there, may not be read, or is no file: a pipe would block for ever. `what` says what
    should have been there.
    """
    try:
        kind = _special_kind(path.stat().st_mode)
        if not kind:
            # A pipe that has taken its place meanwhile doesn't block either.
            file = os.fdopen(
                os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
            )
            if not (kind := _special_kind(os.fstat(file.fileno()).st_mode)):
                return file
            file.close()
    except FileNotFoundError:
        target = f": it is a link to {path.readlink()}, which is not there" if path.is_symlink() else ""
        raise UserError(f"there is no {what} {path}{target}") from None
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise UserError(f"could not read {str(path)!r}: {error}") from error
    raise UserError(f"could not read {path}: it is {kind}, not a {what}")


def _special_kind(mode: int) -> str:
    """What a directory entry is that is no file; empty for a file."""
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((kind for is_kind, kind in kinds if is_kind(mode)), "")


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


def counted(count: int, what: str) -> str:
    """So many: "1 picture", "2 pictures"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def remove_leftovers(directory: Path) -> None:
    """Removes what a process that was killed while writing has left; what can't be removed does no harm."""
    for partial in directory.glob(f".*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            partial.unlink()


def make_numbered_dir(parent: Path, stem: str) -> Path:
    """Creates `parent/stem-<n>` with n above every existing one; two processes never get the same."""
    taken = [
        int(match.group(1))
        for entry in (parent.iterdir() if parent.is_dir() else ())
        if (match := re.fullmatch(re.escape(stem) + r"-(\d+)", entry.name))
    ]
    number = max(taken, default=0) + 1
    while True:
        try:
            (directory := parent / f"{stem}-{number}").mkdir(parents=True)
            return directory
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(f"could not create {directory}: {error.strerror or error}") from error

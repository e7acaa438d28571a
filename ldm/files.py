"""Writing files whole: under a temporary name, flushed to the disk, then renamed. A half-written file is never seen."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def openable(path: Path) -> Iterator[Path]:
    """A name of an existing file or directory for libraries that take names in UTF-8 only; the path itself if it is.

    Another one is opened here and named by its descriptor, as long as the block lasts. What they have opened stays.
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

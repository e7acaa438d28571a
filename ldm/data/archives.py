"""Unpacks a stranger's archive of photos: only regular files, only below one directory, only so many bytes.

Zip, and tar as it is or compressed with gzip, bzip2 or xz, by their content.
"""

import bz2
import gzip
import logging
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from ldm.data.captioned import METADATA
from ldm.data.formats import IMAGE_SUFFIXES, RAW_SUFFIXES, TGA_SUFFIXES
from ldm.disk import free_bytes, human_size
from ldm.errors import UserError
from ldm.user_files import open_file

log = logging.getLogger(__name__)

MOST_BYTES, MOST_FILES = 8_000_000_000, 20_000
"""Bytes and files that are unpacked at most."""
LEFT_FREE = 0.9
"""The share of the disk's free bytes that an archive may fill."""
CHUNK = 1 << 20
MOST_HEADER = 1 << 20
"""Bytes that a tar's reader may ask for at once: names and comments, which it keeps in memory."""

ZIP, TAR_AT, TAR = b"PK\3\4", 257, b"ustar"
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
ARCHIVES = "zip, tar, tar.gz, tar.bz2 or tar.xz"

RARE_SUFFIXES = {".pnm", ".pbm", ".psd", ".qoi", ".sgi", ".pcx", ".dds", ".jxl"}
UNPACKED = IMAGE_SUFFIXES | TGA_SUFFIXES | RAW_SUFFIXES | RARE_SUFFIXES | {".txt", ""}
"""Suffixes of images, also of those that only messages name, and captions; an image may have none. Nothing else is
unpacked: a checkpoint would be found as one of a run."""

LINK, OTHER, OUTSIDE, HIDDEN, TWICE = (
    "links or devices",
    "neither images nor captions",
    "outside of the archive's own directory",
    "hidden files",
    "twice there",
)


def is_archive(path: Path) -> bool:
    """Whether a file begins like an archive that can be unpacked. Raises `OSError`."""
    with path.open("rb") as file:
        head = file.read(TAR_AT + len(TAR))
    return head.startswith((ZIP, *COMPRESSED)) or head[TAR_AT:] == TAR


def unpack(archive: Path, directory: Path) -> None:
    """Writes the archive's files into an existing directory. Logs what is left out.

    Raises `UserError` if it is no archive, damaged, has a password, or would fill the disk.
    """
    with open_file(archive, "archive") as stream, _explained(archive):
        head = stream.read(TAR_AT + len(TAR))
        stream.seek(0)
        limit = min(MOST_BYTES, int(LEFT_FREE * free_bytes(directory)))
        target = _Target(archive, directory, limit)
        compression = next((opened for magic, opened in COMPRESSED.items() if head.startswith(magic)), None)
        if head.startswith(ZIP):
            _unpack_zip(stream, target)
        elif compression is not None:
            with cast(Any, compression)(stream) as decompressed:
                _unpack_tar(decompressed, target)
        elif head[TAR_AT:] == TAR:
            _unpack_tar(stream, target)
        else:
            raise UserError(f"{archive} is no archive that can be unpacked ({ARCHIVES})")
    target.finish()


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Turns what a damaged archive makes the libraries raise into a `UserError`."""
    damaged = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, IndexError)
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:  # of zipfile: a password, or an unusual compression
        raise UserError(f"{archive} can't be unpacked: {error}") from error
    except damaged as error:
        raise UserError(f"{archive} is damaged: {error or type(error).__name__}") from error
    except OSError as error:
        reason = error.strerror or error  # gzip's and bz2's own have no number
        raise UserError(f"{archive} could not be unpacked: {reason}") from error


class _Target:
    """The directory that is unpacked into, and what is left of its limits."""

    def __init__(self, archive: Path, directory: Path, limit: int) -> None:
        self.archive, self.directory, self.limit = archive, directory, limit
        self.bytes = self.files = self.entries = 0
        self.left_out: Counter[str] = Counter()

    def count(self) -> None:
        """One more entry of any kind. Raises `UserError` if there are too many."""
        self.entries += 1
        if self.entries > 2 * MOST_FILES or self.files > MOST_FILES:
            raise UserError(f"{self.archive} holds more than {MOST_FILES} files; unpack it yourself")

    def write(self, name: str, content: IO[bytes]) -> None:
        """Writes one file below the directory, or leaves it out."""
        if (path := self._path(name)) is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            while chunk := content.read(CHUNK):
                self.bytes += len(chunk)
                if self.bytes > self.limit:
                    raise UserError(
                        f"{self.archive} unpacks to more than {human_size(self.limit)}, which is the most that may be "
                        f"unpacked into {self.directory.parent}; unpack it yourself"
                    )
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())  # a folder that is there is whole
        self.files += 1

    def _path(self, name: str) -> Path | None:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]:
            self.left_out[OUTSIDE] += 1
            return None
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            self.left_out[HIDDEN] += 1
            return None
        path = self.directory.joinpath(*parts)
        if not (path.suffix.lower() in UNPACKED or path.name == METADATA):
            self.left_out[OTHER] += 1
            return None
        if path.exists():
            self.left_out[TWICE] += 1
            return None
        return path

    def finish(self) -> None:
        """Logs what was left out."""
        for reason, count in self.left_out.items():
            level = logging.INFO if reason in (HIDDEN, OTHER) else logging.WARNING
            log.log(level, "%s: %d of its entries not unpacked (%s)", self.archive, count, reason)


def _unpack_zip(stream: IO[bytes], target: _Target) -> None:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            target.count()
            if info.is_dir():
                continue
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                target.left_out[LINK] += 1
                continue
            with archive.open(info) as content:
                target.write(info.filename, content)


def _unpack_tar(stream: IO[bytes], target: _Target) -> None:
    bounded = cast(IO[bytes], _Bounded(stream, target))
    with tarfile.open(fileobj=bounded, mode="r:") as archive:
        for member in archive:
            target.count()
            if member.isdir():
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                target.left_out[LINK] += 1
                continue
            with content:
                target.write(member.name, content)


class _Bounded:
    """A stream of which only so many bytes can be reached, and few at a time: a header may claim any size."""

    def __init__(self, stream: IO[bytes], target: _Target) -> None:
        self._stream, self._target = stream, target
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        if not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        """Moves on, or back."""
        if position > 2 * self._target.limit:
            raise tarfile.ReadError(f"an entry that would end at byte {position}")
        return self._stream.seek(position, whence)

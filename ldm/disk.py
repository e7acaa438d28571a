"""Disk space: how much is free, how sizes are written, and why a file could not be written."""

import errno
import os
import re
import resource
import shutil
from io import FileIO
from pathlib import Path

from ldm.errors import UserError

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")

FULL = (errno.ENOSPC, errno.EDQUOT)


def human_size(size: float) -> str:
    """A number of bytes with three digits: 1 byte, 999 bytes, 1.5 kB, 133 MB, 4.27 GB."""
    power = 0
    while power < len(UNITS) - 1 and size >= 999.5:
        size, power = size / 1000, power + 1
    return "1 byte" if (size, power) == (1, 0) else f"{float(f'{size:.3g}'):g} {UNITS[power]}"


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists; relative if `path` is relative."""
    return next((one for one in (path, *path.parents) if one != Path() and one.exists()), Path.cwd())


def unwritable(directory: Path) -> str | None:
    """Why no file can be created in a directory, which need not exist yet; None if one can."""
    above = (one for one in (directory, *directory.parents) if one != Path() and os.path.lexists(one))
    nearest = next(above, Path.cwd())
    if not nearest.is_dir():
        return f"{nearest} is not a directory"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"you may not write in {nearest}"


def write_all(file: FileIO, data: bytes) -> None:
    """Writes all data to an unbuffered file, for which a single write may be partial."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def write_error(path: Path, error: Exception, size: int | None = None) -> UserError:
    """Why a file could not be written, in one line: the system's reason, its `size` in bytes and the free space.

    The message of another error than `OSError`, such as safetensors', may contain the system's error number.
    """
    number, reason = _reason(error)
    details = []
    if number in FULL and size is not None:
        details.append(f"it takes {human_size(size)}")
    if number in FULL:
        details.append(f"{human_size(free_bytes(path.parent))} are free in {existing(path.parent)}")
    if number == errno.EFBIG and (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY:
        details.append(f"`ulimit -f` allows files of {human_size(limit)}")
    return UserError(f"could not write {path}: {'; '.join([reason, *details])}")


def _reason(error: Exception) -> tuple[int | None, str]:
    if isinstance(error, OSError):
        return error.errno, error.strerror or str(error)
    if found := re.search(r"(?:\(os error |Os \{ code: )(\d+)", str(error)):  # newer and older safetensors
        return int(found[1]), os.strerror(int(found[1]))
    return None, str(error)

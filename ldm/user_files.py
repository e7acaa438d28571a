"""Files that people name or keep in their folders, opened only if they are files: a named pipe would block for ever."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ldm.errors import UserError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What a path can be that is no regular file, by its type in `st_mode`."""


def kind_of(path: Path) -> str | None:
    """None of a regular file, else what the path is: "a named pipe". Links are followed. Raises `OSError`."""
    mode = path.stat().st_mode
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no file")


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading bytes and never blocks.

    Raises `UserError` if it is a named pipe, a socket, a device or a folder, and `OSError` as `open` does.
    """
    if (kind := kind_of(path)) is not None:
        raise UserError(f"{path} is {kind}, not a file")
    # Between the two calls the path may have become a pipe: opened this way, that doesn't block either.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path} is not a file")
    return file

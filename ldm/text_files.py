"""Reading other people's text files: regular files of a bounded size, in UTF-8. A pipe would block for ever."""

import codecs
import os
import stat
from pathlib import Path

from ldm.errors import UserError

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MEGABYTE = 10**6


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file, without the byte-order mark of UTF-8 that some editors write before it.

    Raises `FileNotFoundError` if there is none, and `UserError` with the reason for anything but a text file of at most
    so many bytes.
    """
    try:
        # Opening a pipe waits for its other end, unless told not to.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"could not read {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is {KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}, not a text file")
        if status.st_size > most_bytes:
            raise UserError(f"{path} is too large to be it: {_size(status.st_size)}, and at most {_size(most_bytes)}")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror or error}") from error
    finally:
        os.close(descriptor)
    return _decoded(path, content)


def _decoded(path: Path, content: bytes) -> str:
    if content.startswith(UTF_16):
        raise UserError(f"{path} is not text in UTF-8: it is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not text in UTF-8: line {line} has a byte {content[error.start]:#04x}") from None


def _size(count: int) -> str:
    return f"{count / MEGABYTE:.1f} MB" if count >= MEGABYTE / 10 else f"{count} bytes"

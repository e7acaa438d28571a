"""Foreign files: opened only if they are regular files of a bounded size. A named pipe would block for ever."""

import codecs
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ldm.disk import human_size
from ldm.errors import UserError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Kinds of paths that are not regular files, by the type in `st_mode`."""
DIFFUSERS_INDEX = "model_index.json"
"""The file by which a diffusers directory is known: neither a run nor a directory of checkpoints has one."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def resolved(path: Path) -> Path:
    """The absolute path with its links followed. A link that leads to itself stays, where `Path.resolve` may raise."""
    return Path(os.path.realpath(path))


def path_kind(path: Path) -> str | None:
    """None for a regular file, else what the path is: "a named pipe". Follows links. Raises `OSError`."""
    return _kind(path.stat())


def is_diffusers_directory(path: Path) -> bool:
    """Whether a path is one model in diffusers' layout."""
    return (path / DIFFUSERS_INDEX).is_file()


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a single checkpoint, by its kind alone: a file, or a diffusers directory."""
    return path.is_file() or is_diffusers_directory(path)


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading bytes; never blocks.

    Raises `UserError` if it is a named pipe, a socket, a device or a folder, and `OSError` as `open` does.
    """
    if (kind := path_kind(path)) is not None:
        raise UserError(f"{path} is {kind}, not a file")
    # The path may become a pipe between the two calls; opened with O_NONBLOCK, it doesn't block either.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if (kind := _kind(os.fstat(file.fileno()))) is not None:
        file.close()
        raise UserError(f"{path} is {kind}, not a file")
    return file


def open_file(path: Path, noun: str = "file") -> BinaryIO:
    """`open_regular` with every error as a `UserError`; `noun` names the kind of file in messages."""
    try:
        return open_regular(path)
    except FileNotFoundError:
        target = f": it is a link to {path.readlink()}, which does not exist" if path.is_symlink() else ""
        raise UserError(f"there is no {noun} {path}{target}") from None
    except OSError as error:
        raise UserError(f"could not read {path}: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise UserError(f"could not read {str(path)!r}: {error}") from error


def read_text(path: Path, most_bytes: int) -> str:
    """The text of a file in UTF-8, without the byte-order mark that some editors write before it.

    Raises `FileNotFoundError` if there is none, and `UserError` with the reason if it isn't a readable text file of at
    most `most_bytes`.
    """
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most_bytes:
                raise UserError(f"{path} is too large: {human_size(size)}; at most {human_size(most_bytes)} are read")
            content = file.read(most_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"could not read {path}: {getattr(error, 'strerror', None) or error}") from error
    return _decoded(path, content)


def _decoded(path: Path, content: bytes) -> str:
    if content.startswith(UTF_16):
        raise UserError(f"{path} is not text in UTF-8: it is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not text in UTF-8: line {line} has a byte {content[error.start]:#04x}") from None


def _kind(status: os.stat_result) -> str | None:
    mode = status.st_mode
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no file")

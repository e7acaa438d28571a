"""One process at a time writes into a directory: it holds a lock, which the system takes back however it ends."""

import errno
import fcntl
import logging
from pathlib import Path
from typing import IO

from ldm.errors import UserError

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"

_held: dict[Path, IO[bytes]] = {}
"""Open files, by directory. Closing one gives its lock back."""


def lock_directory(directory: Path) -> None:
    """Keeps other processes from locking the directory until `unlock_directories`, or until this process ends.

    Locking it again changes nothing. Raises `UserError` if another process has it. A file system without locks, as some
    networks have, is spoken of in a warning.
    """
    key = directory.resolve()
    if key in _held:
        return
    path = directory / LOCK_NAME
    try:
        file = path.open("ab")
    except OSError as error:
        raise UserError(f"could not write {path}: {error.strerror}") from error
    try:
        # A record lock, unlike flock, isn't inherited: worker processes that outlive a killed run don't keep it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"{directory} is being written by another process; wait until it has ended, or stop it"
            ) from None
        log.warning("%s can't be locked (%s): let no other process continue it meanwhile", directory, error.strerror)
    else:
        _held[key] = file


def unlock_directories() -> None:
    """Gives back all that this process has locked."""
    while _held:
        _held.popitem()[1].close()

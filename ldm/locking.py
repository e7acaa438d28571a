"""One process at a time writes into a directory: it holds a lock, which the system releases when the process ends."""

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from typing import IO

from ldm.errors import UserError
from ldm.user_files import resolved

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"

MOMENT = 1.0
"""Seconds for which another process may lock a directory while it removes leftovers (`ldm.leftovers`)."""

_held: dict[Path, IO[bytes]] = {}
"""Open files, by directory. Closing one releases its lock."""

_until_the_end: set[Path] = set()
"""Directories in `_held` that `lock_directory` has locked."""

_one_thread = threading.Lock()


class TakenError(UserError):
    """Another process has locked the directory."""


class NoLocksError(Exception):
    """The file system has no locks, like some network file systems."""


def lock_directory(directory: Path) -> None:
    """Keeps other processes from locking the directory until `unlock_directories`, or until this process ends.

    Locking it again does nothing. Raises `TakenError` if another process has it. A file system without locks, as some
    network file systems are, triggers a warning.
    """
    key = resolved(directory)
    if key in _held:
        return
    try:
        deadline = time.monotonic() + MOMENT
        while not hold(directory):
            if time.monotonic() > deadline:
                raise TakenError(
                    f"{directory} is being written by another process; wait until it has ended, or stop it"
                )
            time.sleep(MOMENT / 20)
    except NoLocksError as error:
        log.warning("%s can't be locked (%s): let no other process resume it meanwhile", directory, error)
    except OSError as error:
        raise UserError(f"could not write {directory / LOCK_NAME}: {error.strerror}") from error
    else:
        _until_the_end.add(key)


def unlock_directories() -> None:
    """Releases all locks of `lock_directory`."""
    while _until_the_end:
        release(_until_the_end.pop())


def hold(directory: Path) -> bool:
    """Locks a directory until `release`. False if another process has it, or this one already.

    Raises `OSError` if its lock file can't be opened or is removed meanwhile, and `NoLocksError`.
    """
    key = resolved(directory)
    with _one_thread:  # file locks don't exclude threads of one process
        if key in _held:  # opening and closing its file again would release the lock
            return False
        file = (directory / LOCK_NAME).open("ab")
        try:
            # A record lock, unlike flock, isn't inherited: worker processes that outlive a killed run don't keep it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), (directory / LOCK_NAME).stat()):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except FileNotFoundError:
            file.close()
            raise
        except OSError as error:
            file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise NoLocksError(error.strerror or str(error)) from error
        _held[key] = file
        return True


def release(directory: Path) -> None:
    """Releases a lock of `hold`, also if the directory was removed."""
    with _one_thread:
        if file := _held.pop(resolved(directory), None):
            with contextlib.suppress(OSError):
                file.close()

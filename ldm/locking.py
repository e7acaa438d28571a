"""One process at a time writes into a directory: it holds a lock, which the system takes back however it ends."""

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

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"

MOMENT = 1.0
"""Seconds for which another process may lock a directory only to look for what dead ones left (`ldm.leftovers`)."""

_held: dict[Path, IO[bytes]] = {}
"""Open files, by directory. Closing one gives its lock back."""

_until_the_end: set[Path] = set()
"""Those of `_held` that `lock_directory` has locked."""

_one_thread = threading.Lock()


class TakenError(UserError):
    """Another process has locked the directory."""


class NoLocksError(Exception):
    """The file system has no locks, as that of some networks."""


def lock_directory(directory: Path) -> None:
    """Keeps other processes from locking the directory until `unlock_directories`, or until this process ends.

    Locking it again changes nothing. Raises `TakenError` if another process has it. A file system without locks, as
    some networks have, is spoken of in a warning.
    """
    key = directory.resolve()
    if key in _held:
        return
    try:
        until = time.monotonic() + MOMENT
        while not hold(directory):
            if time.monotonic() > until:
                raise TakenError(
                    f"{directory} is being written by another process; wait until it has ended, or stop it"
                )
            time.sleep(MOMENT / 20)
    except NoLocksError as error:
        log.warning("%s can't be locked (%s): let no other process continue it meanwhile", directory, error)
    except OSError as error:
        raise UserError(f"could not write {directory / LOCK_NAME}: {error.strerror}") from error
    else:
        _until_the_end.add(key)


def unlock_directories() -> None:
    """Gives back all that `lock_directory` has locked."""
    while _until_the_end:
        release(_until_the_end.pop())


def hold(directory: Path) -> bool:
    """Locks a directory until `release`. False if another process has it, or this one already.

    Raises `OSError` if its lock file can't be opened or somebody removes it meanwhile, and `NoLocksError`.
    """
    key = directory.resolve()
    with _one_thread:  # threads of one process don't lock each other out by the file
        if key in _held:  # opening and closing its file once more would give the lock back
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
    """Gives back what `hold` has locked, also if it has been removed."""
    with _one_thread:
        if file := _held.pop(directory.resolve(), None):
            with contextlib.suppress(OSError):
                file.close()

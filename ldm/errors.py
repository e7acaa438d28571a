"""The error meant for the person at the keyboard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something the user can fix: a flag, a file, a full disk.

    The message names what was wrong, which file or flag, and what would be right. The root scripts print it without a
    traceback and exit with status 2.
    """


@contextmanager
def named_in_errors(path: Path, passed: type[Exception] = UserError) -> Iterator[None]:
    """Turns any error about a stranger's file into a `UserError` that names the file.

    For loops that leave out a bad file, whatever is wrong with it. Errors of type `passed` are raised unchanged:
    they are not about the file.
    """
    try:
        yield
    except (UserError, passed):
        raise
    except Exception as error:
        raise UserError(f"{path} can't be used: {type(error).__name__}: {str(error)[:200]}") from error

"""The error meant for the person at the keyboard."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something the user can mend: a flag, a file, a full disk.

    The message names what was wrong, which file or flag, and what would be right. The root scripts print it without a
    traceback and exit with status 2.
    """


@contextmanager
def named_in_errors(path: Path, passed: type[Exception] = UserError) -> Iterator[None]:
    """Turns any error into the user's, with the name of the file that it comes from: it is a stranger's work.

    Used where one bad file among many is left out, whatever is wrong with it. Errors of the type `passed` stay as they
    are, as they say nothing about the file.
    """
    try:
        yield
    except (UserError, passed):
        raise
    except Exception as error:
        raise UserError(f"{path} can't be used: {type(error).__name__}: {str(error)[:200]}") from error

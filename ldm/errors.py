"""The error meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: a flag, a file, a full disk.

    The message names what was wrong, which file or flag, and what would be right. The root scripts print it without a
    traceback and exit with status 2.
    """

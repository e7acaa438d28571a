"""Commands to type next, quoted for the shell, so that they can be copied whatever a path holds."""

import re
import shlex
from pathlib import Path

from ldm.terminal import UNSAFE

UNQUOTABLE = re.compile(f"{UNSAFE.pattern}|\n")
"""What must not reach a terminal as it is; quotes alone would not change that."""


def quoted(word: object) -> str:
    """One word for the shell. Control characters and bytes that are no UTF-8 are spelled, within `$'...'`."""
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"  # would be taken for a flag
    if not UNQUOTABLE.search(text):
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + UNQUOTABLE.sub(lambda match: _spelled(match[0]), plain) + "'"


def command_line(script: str, *words: object) -> str:
    """`python <script> <words>`, to be copied into a shell: `command_line("dreambooth.py", "-r", directory)`."""
    return " ".join(["python", *(quoted(word) for word in (script, *words))])


def _spelled(character: str) -> str:
    """Every byte of a character, in octal: another digit behind it changes nothing."""
    is_byte = "\udc80" <= character <= "\udcff"  # of a file name that is no UTF-8
    encoded = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in encoded)

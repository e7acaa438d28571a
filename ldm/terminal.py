"""Foreign text on its way to a terminal, a log or a shell: it can't move the cursor, reverse letters or forge lines.

Prompts, class names, file names and metadata may hold any character. Inside the program they stay as they are; where
text leaves it, control characters are escaped: `VisibleFormatter` is the formatter of every handler. A line break in a
message's own words stays; one in an argument, which may be foreign, is escaped. `command_line` quotes for a shell.
"""

import logging
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path

UNSAFE = re.compile(
    "["
    "\x00-\x09\x0b-\x1f\x7f-\x9f"  # C0 without the line break, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # changes of the writing direction
    "\u2028\u2029"  # further line breaks
    "\ud800-\udfff"  # bytes that are not UTF-8, and halves of letters
    "\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible annotations and tags
    "]"
)
"""Characters that act instead of showing something, without the line break."""
INDENTED = "\n  "


class Lines(tuple[str, ...]):
    """An argument of a log message that has several lines on purpose; each of them is foreign text."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(visible(line) for line in self)


def visible(text: str) -> str:
    r"""The text with every control character, line break and broken letter escaped: `\x1b`, `\n`, `\u202e`."""
    return visible_lines(text).replace("\n", "\\n")


def visible_lines(text: str) -> str:
    """The same, but line breaks stay."""
    return UNSAFE.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character in "\t\r":
        return {"\t": "\\t", "\r": "\\r"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class VisibleFormatter(logging.Formatter):
    """Writes a record so that only the message's own words break lines."""

    def format(self, record: logging.LogRecord) -> str:
        safe = logging.makeLogRecord({**vars(record), "args": _visible_args(record.args)})
        return visible_lines(super().format(safe))


class TerminalFormatter(VisibleFormatter):
    """Plain words; only warnings carry their level."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return f"warning: {record.message}" if record.levelno == logging.WARNING else record.message


@cache
def warn_once(logger: logging.Logger, message: str, *args: object) -> None:
    """Logs a warning the first time only: one command may read the same file or prompt many times."""
    logger.warning(message, *args)


def log_file_formatter() -> logging.Formatter:
    """The formatter of `run.log`: the time and the level before each message."""
    return VisibleFormatter("%(asctime)s %(levelname)s %(message)s")


def _visible_args(args: object) -> object:
    """A record's arguments; numbers stay numbers for `%d`."""
    if isinstance(args, Mapping):
        return {name: _visible_arg(value) for name, value in args.items()}
    return tuple(_visible_arg(value) for value in args) if isinstance(args, tuple) else args


def _visible_arg(value: object) -> object:
    is_number = hasattr(type(value), "__float__")  # also of torch and numpy
    if value is None or is_number or isinstance(value, Lines):
        return value
    if isinstance(value, Exception):  # its own further lines are indented: a forged one is too
        return INDENTED.join(visible(line) for line in str(value).split(INDENTED))
    return visible(str(value))


UNQUOTABLE = re.compile(f"{UNSAFE.pattern}|\n")
"""What must not reach a terminal, not even in quotes."""


def quoted(word: object) -> str:
    """One word for the shell, with control characters and bytes that are not UTF-8 escaped in `$'...'`."""
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"  # would be taken for a flag
    if not UNQUOTABLE.search(text):
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + UNQUOTABLE.sub(lambda match: _in_octal(match[0]), plain) + "'"


def command_line(script: str, *words: object) -> str:
    """`python <script> <words>`, to be copied into a shell: `command_line("dreambooth.py", "-r", directory)`."""
    return " ".join(["python", *(quoted(word) for word in (script, *words))])


def _in_octal(character: str) -> str:
    """Every byte of a character in octal, with all three digits: a digit that follows changes nothing."""
    is_byte = "\udc80" <= character <= "\udcff"  # of a file name that is not UTF-8
    encoded = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in encoded)

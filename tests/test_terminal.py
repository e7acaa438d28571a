"""Foreign text on a terminal, in a log and in commands to copy: control characters are escaped."""

import logging
import os
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.terminal import Lines, TerminalFormatter, command_line, log_file_formatter, quoted, visible

EVIL = "a\x1b[2J\x07\nerror: all fine\r\x9b31m\u202egnp.\u2066\u2028x\udce9\ud800"
ESCAPED = "a\\x1b[2J\\x07\\nerror: all fine\\r\\x9b31m\\u202egnp.\\u2066\\u2028x\\xe9\\ud800"


def formatted(level: int, message: str, *args: object) -> str:
    record = logging.LogRecord("ldm", level, __file__, 1, message, args, None)
    return TerminalFormatter().format(record)


def test_control_characters_and_line_breaks_in_an_argument_are_escaped() -> None:
    assert formatted(logging.ERROR, "error: %s", EVIL) == f"error: {ESCAPED}"
    assert formatted(logging.WARNING, "left out %s", EVIL) == f"warning: left out {ESCAPED}"
    assert formatted(logging.INFO, "%(name)s", {"name": EVIL}) == ESCAPED


def test_a_messages_own_lines_stay_lines() -> None:
    assert formatted(logging.INFO, "%d done:\n  %s", 3, Lines(["a", "b\nc"])) == "3 done:\n  a\nb\\nc"


def test_numbers_are_formatted_as_numbers() -> None:
    assert formatted(logging.INFO, "%03d %.1f %s", 7, 0.25, None) == "007 0.2 None"


def test_a_line_of_the_log_file_is_one_line() -> None:
    record = logging.LogRecord("ldm", logging.INFO, __file__, 1, "%s", (EVIL,), None)
    assert log_file_formatter().format(record).endswith(f"INFO {ESCAPED}")


@pytest.mark.parametrize("text", ["une chèvre", "水差し", "ماء", "👩‍🚀", "a\\b", ""])
def test_letters_of_any_script_are_kept(text: str) -> None:
    assert visible(text) == text


@given(st.text(st.characters()))
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(shown) & {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"}
    shown.encode()


file_names = st.binary(min_size=1, max_size=20).map(lambda name: name.replace(b"\0", b"x"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash reads the words back")
@settings(max_examples=20, deadline=None)
@given(names=st.lists(file_names, min_size=20, max_size=20))
def test_a_shell_reads_back_the_same_bytes(names: list[bytes]) -> None:
    words = " ".join(quoted(os.fsdecode(name)) for name in names)
    done = subprocess.run(["bash", "-c", rf"printf '%s\0' {words}"], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == names


@settings(deadline=None)
@given(name=st.text() | file_names.map(os.fsdecode))
def test_quoted_words_hold_no_control_characters(name: str) -> None:
    assert visible(quoted(name)) == quoted(name)


def test_a_plain_command_needs_no_quotes() -> None:
    assert command_line("dreambooth.py", "-r", Path("ckpts/can-1")) == "python dreambooth.py -r ckpts/can-1"
    assert command_line("txt2img.py", "-p", "a cat") == "python txt2img.py -p 'a cat'"


def test_a_path_that_looks_like_a_flag_is_marked_as_a_path() -> None:
    assert command_line("dreambooth.py", "-r", Path("-r")) == "python dreambooth.py -r ./-r"

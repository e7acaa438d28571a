"""Other people's text on a terminal and in a log: it shows, and does nothing."""

import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.terminal import Lines, TerminalFormatter, log_file_formatter, visible

EVIL = "a\x1b[2J\x07\nerror: all fine\r\x9b31m\u202egnp.\u2066\u2028x\udce9\ud800"
SPELLED = "a\\x1b[2J\\x07\\nerror: all fine\\r\\x9b31m\\u202egnp.\\u2066\\u2028x\\xe9\\ud800"


def said(level: int, message: str, *args: object) -> str:
    record = logging.LogRecord("ldm", level, __file__, 1, message, args, None)
    return TerminalFormatter().format(record)


def test_control_characters_and_line_breaks_of_an_argument_are_spelled() -> None:
    assert said(logging.ERROR, "error: %s", EVIL) == f"error: {SPELLED}"
    assert said(logging.WARNING, "left out %s", EVIL) == f"warning: left out {SPELLED}"
    assert said(logging.INFO, "%(name)s", {"name": EVIL}) == SPELLED


def test_a_messages_own_lines_stay_lines() -> None:
    assert said(logging.INFO, "%d done:\n  %s", 3, Lines(["a", "b\nc"])) == "3 done:\n  a\nb\\nc"


def test_numbers_are_formatted_as_numbers() -> None:
    assert said(logging.INFO, "%03d %.1f %s", 7, 0.25, None) == "007 0.2 None"


def test_a_line_of_the_log_file_is_one_line() -> None:
    record = logging.LogRecord("ldm", logging.INFO, __file__, 1, "%s", (EVIL,), None)
    assert log_file_formatter().format(record).endswith(f"INFO {SPELLED}")


@pytest.mark.parametrize("text", ["une chèvre", "水差し", "ماء", "👩‍🚀", "a\\b", ""])
def test_letters_of_any_script_stay(text: str) -> None:
    assert visible(text) == text


@given(st.text(st.characters()))
def test_nothing_that_is_shown_controls_anything(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(shown) & {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"}
    shown.encode()

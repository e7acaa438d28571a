"""What prompts and class names may hold."""

import pytest

from ldm.prompts import bare_class_name, class_name_fault, prompt_fault


@pytest.mark.parametrize("text", ["", "a cat", "ein Bär\nim Schnee\t", "水差し", "👩‍🚀", "x" * 4000])
def test_text_of_any_script_is_a_prompt(text: str) -> None:
    assert prompt_fault(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * 4001, "at most 4,000 characters, not 4,001"),
        ("a\x1b[2J", r"\x1b"),
        ("a\udce9", r"\xe9"),
        ("\ud83d", r"\ud83d"),
    ],
)
def test_what_no_text_holds_is_named(text: str, words: str) -> None:
    assert words in (prompt_fault(text) or "")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("a can", "can"),
        ("An  old can ", "old can"),
        ("the can", "can"),
        ("sks can", "can"),
        ("a SKS can", "can"),
        ("anvil", "anvil"),
        ("water  bottle", "water bottle"),
        ("a", "a"),
    ],
)
def test_what_prompts_say_by_themselves_is_no_part_of_a_class_name(typed: str, name: str) -> None:
    assert bare_class_name(typed) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("x" * 5000, "at most 200 characters, not 5,000"),
        ("can\nerror: all fine", r"one line of text, and holds \n"),
        ("can\x9b31m", r"\x9b"),
        ("can\tcan", r"\t"),
        ("sks", '"sks"'),
        ("my sks can", '"sks"'),
    ],
)
def test_what_is_no_class_name_is_told_why(name: str, words: str) -> None:
    assert words in (class_name_fault(name) or "")


@pytest.mark.parametrize("name", ["can", "water bottle", "水差し", "🤖", "sksx"])
def test_words_of_any_script_are_a_class_name(name: str) -> None:
    assert class_name_fault(name) is None

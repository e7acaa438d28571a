"""Weights, BREAK and alternatives in prompts."""

import pytest

from ldm.prompt_syntax import alternatives, parse_prompt, plain_text, unbalanced_brackets


def parsed(prompt: str) -> list[list[tuple[str, float]]]:
    return [[(piece.text, round(piece.weight, 6)) for piece in chunk] for chunk in parse_prompt(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red can", [("a red can", 1.0)]),
        ("", []),
        ("a (red) can", [("a ", 1.0), ("red", 1.1), (" can", 1.0)]),
        ("a ((red)) can", [("a ", 1.0), ("red", 1.21), (" can", 1.0)]),
        ("a [red] can", [("a ", 1.0), ("red", 0.909091), (" can", 1.0)]),
        ("a (red:1.3) can", [("a ", 1.0), ("red", 1.3), (" can", 1.0)]),
        ("(a (red : .5 ) can:2)", [("a ", 2.0), ("red ", 1.0), (" can", 2.0)]),
        ("(a:-1) b", [("a", -1.0), (" b", 1.0)]),
        (r"a \(red\) can\\", [("a (red) can\\", 1.0)]),
        (r"(\(a\):1.2)", [("(a)", 1.2)]),
        ("a (red can", [("a ", 1.0), ("red can", 1.1)]),
        ("a red) can]", [("a red) can]", 1.0)]),
        ("ratio 16:9, at 5:30", [("ratio 16:9, at 5:30", 1.0)]),
        ("a red:1.5) can", [("a red:1.5) can", 1.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 0.909091)]),
    ],
)
def test_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert parsed(prompt) == [expected]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (r"a (red:1.3) [can] \( \]", ""),
        ("a (red can", "("),
        ("a red) can]", ")]"),
        ("((a [b) c]", "("),
        ("a red:1.5) (can", ")("),
    ],
)
def test_brackets_without_a_partner(prompt: str, expected: str) -> None:
    assert "".join(unbalanced_brackets(prompt)) == expected


def test_break_begins_another_chunk_also_within_brackets() -> None:
    assert parsed("a can BREAK on a rock") == [[("a can", 1.0)], [("on a rock", 1.0)]]
    assert parsed("(a BREAK b:1.5) BREAK") == [[("a", 1.5)], [("b", 1.5)], []]
    assert parsed("a BREAKFAST") == [[("a BREAKFAST", 1.0)]]


def test_plain_text_has_the_words_alone() -> None:
    assert plain_text(r"a (red:1.3) [can] BREAK \(on\) a rock") == "a red can (on) a rock"


def test_alternatives_are_all_tried_and_a_class_is_none() -> None:
    assert alternatives("a {red|blue} {can|mug} in {class}") == [
        "a red can in {class}",
        "a red mug in {class}",
        "a blue can in {class}",
        "a blue mug in {class}",
    ]
    assert alternatives("a {|big }can") == ["a can", "a big can"]
    assert alternatives("a {class}") == ["a {class}"]

"""The headings of a comparison's columns: the prompt with the class, never "{class}"."""

from dataclasses import replace

import pytest

from ldm.report.comparison import Cell, Column, ComparisonData, Group, Row, shown_prompt

PROMPT = "a photo of sks {class}"


def comparison(*subjects: str, cells: list[Cell | None]) -> ComparisonData:
    """A row for each cell, of one column, and a group for each subject."""
    rows = [Row(f"step {step}", 0, "can-1", step, "can.ckpt", False, [cell]) for step, cell in enumerate(cells)]
    return ComparisonData("", "", "", [Column(PROMPT, 0, 42)], rows, [Group(subject) for subject in subjects])


@pytest.mark.parametrize(
    ("subjects", "heading"),
    [
        (["tin can"], "a photo of sks tin can"),
        (["can", "mug", "can"], "a photo of sks can / mug"),
        (["can", "mug", "cup", "dog"], "a photo of sks [class]"),
        ([""], "a photo of sks [class]"),
    ],
)
def test_the_heading_of_an_unfilled_column_names_the_classes(subjects: list[str], heading: str) -> None:
    assert shown_prompt(comparison(*subjects, cells=[None]), 0) == heading


def test_a_heading_is_the_prompt_of_all_images_if_they_have_one() -> None:
    own = Cell("a.png", "sks can on a shelf")
    assert shown_prompt(comparison("can", cells=[own, None, own]), 0) == own.prompt
    two = comparison("can", "mug", cells=[own, replace(own, prompt="sks mug on a shelf")])
    assert shown_prompt(two, 0) == "a photo of sks can / mug"

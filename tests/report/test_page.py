"""The page as text: its data, and that no prompt, name or option becomes markup."""

import base64
import hashlib
import json
import math
import re
import tomllib
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.evaluation.results import Interval
from ldm.files import ROOT
from ldm.report.comparison import Cell, ComparisonData, RunOptions
from ldm.report.page import SCRIPTS, SOURCES, UNKNOWN_SIZE, page_data, page_html, write_page
from tests.report.pages import HOSTILE, MISSING, file_of, sample_comparison, write_images


class Page(HTMLParser):
    """The elements of a page, and the text in its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = dict(attrs).get("type") or tag
        self.texts.setdefault(self._within, "")

    def handle_data(self, data: str) -> None:
        if self._within:
            self.texts[self._within] += data

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.texts["application/json"])


def with_prompt(prompt: str) -> ComparisonData:
    """The sample with another first prompt, in the column and in its cells."""
    sample = sample_comparison()
    rows = [replace(row, cells=[Cell("a.png", prompt), *row.cells[1:]]) for row in sample.rows]
    return replace(sample, columns=[replace(sample.columns[0], prompt=prompt), *sample.columns[1:]], rows=rows)


def test_the_page_is_one_file_beside_the_images(tmp_path: Path) -> None:
    path = write_page(tmp_path, sample_comparison())
    assert path == tmp_path / "index.html"
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.html"]
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_what_the_scripts_read_is_the_comparison() -> None:
    sample = sample_comparison()
    data = Page(page_html(sample)).data
    expected = json.loads(json.dumps(asdict(sample)))
    headings = {column["prompt_index"]: column.pop("heading") for column in data["columns"]}
    assert headings[0] == "a photo of sks tin can"
    assert [column.pop("label") for column in data["columns"]] == [column.label for column in sample.columns]
    for part in ("title", "command", "created", "columns", "runs", "scores", "rule", "sampling", "versions"):
        assert data[part] == expected[part]
    for row, wanted in zip(data["rows"], expected["rows"], strict=True):
        files = [cell and unquote(cell.pop("url")) for cell in row["cells"]]
        assert files == [cell and cell.pop("file") for cell in wanted["cells"]]
        assert row == wanted
    assert data["groups"][0]["recommendation"] == expected["groups"][0]["recommendation"]


def test_an_image_that_was_not_sampled_stays_empty() -> None:
    row, column = MISSING
    cells = page_data(sample_comparison())["rows"][row]["cells"]
    assert [index for index, cell in enumerate(cells) if cell is None] == [column]


@pytest.mark.parametrize(
    ("file", "url"),
    [
        ("plain.png", "plain.png"),
        ("with space/ä#?%&'\".png", "with%20space/%C3%A4%23%3F%25%26%27%22.png"),
        ("c:colon.png", "c%3Acolon.png"),
        ("<b>.png", "%3Cb%3E.png"),
        ("../photos/1.jpg", "../photos/1.jpg"),
        (b"latin-\xe4.png".decode("utf-8", "surrogateescape"), "latin-%E4.png"),
    ],
)
def test_file_names_become_relative_urls(file: str, url: str) -> None:
    sample = sample_comparison()
    group = replace(sample.groups[0], photos=[file])
    row = replace(sample.rows[0], cells=[Cell(file, "a cat"), *sample.rows[0].cells[1:]])
    data = page_data(replace(sample, groups=[group], rows=[row, *sample.rows[1:]]))
    assert data["rows"][0]["cells"][0]["url"] == url
    assert data["groups"][0]["photos"] == [url]


NASTY = [
    HOSTILE,
    "<!--<script>",
    "-->",
    "]]>",
    "\u2028\u2029",
    "\x00\x1b[31m",
    "a\ud800b",
    "$data",
    "${style}",
    "\\u003c",
    "",
]


@pytest.mark.parametrize("prompt", NASTY)
def test_hostile_prompts_stay_data(prompt: str) -> None:
    page, harmless = Page(page_html(with_prompt(prompt))), Page(page_html(with_prompt("a cat")))
    assert [element for element in page.elements if element[0] != "meta"] == [
        element for element in harmless.elements if element[0] != "meta"
    ]
    assert page.data["columns"][0]["prompt"] == prompt
    assert page.texts["module"] == harmless.texts["module"]


@settings(max_examples=25)
@given(st.text())
def test_any_prompt_comes_through(prompt: str) -> None:
    _, _, rest = page_html(with_prompt(prompt)).partition('<script type="application/json" id="comparison">')
    data = json.loads(rest.partition("</script>")[0])
    assert data["columns"][0]["prompt"] == prompt
    assert data["rows"][0]["cells"][0]["prompt"] == prompt


@pytest.mark.parametrize("title", NASTY)
def test_a_hostile_title_can_be_written(tmp_path: Path, title: str) -> None:
    text = write_page(tmp_path, replace(sample_comparison(), title=title)).read_text(encoding="utf-8")
    assert [tag for tag, _ in Page(text).elements].count("script") == 2


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    sample = sample_comparison()
    write_images(tmp_path, sample)
    text = write_page(tmp_path, sample).read_text(encoding="utf-8")
    assert set(re.findall(r"\w*://[^\"'\s]*", text)) == {"http://www.w3.org/2000/svg"}, (
        "an XML name that is never fetched"
    )
    assert "@import" not in text
    assert "url(" not in text
    page = Page(text)
    links = {attributes["href"] or "" for _, attributes in page.elements if "href" in attributes}
    assert {link for link in links if not link.startswith("#")} == {"data:,"}, (
        "an empty icon, which is asked for otherwise"
    )
    assert not [attributes for _, attributes in page.elements if "src" in attributes]


def test_the_policy_names_exactly_this_script_and_this_style() -> None:
    page = Page(page_html(sample_comparison()))
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy") or ""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest(page.texts['module'])}'"
    assert rules["style-src"] == f"'sha256-{digest(page.texts['style'])}'"
    assert not re.search(r"\*|https?:|unsafe", policy)
    assert not [
        name for _, attributes in page.elements for name in attributes if name == "style" or name.startswith("on")
    ]


def test_numbers_that_are_none_are_null() -> None:
    sample = sample_comparison()
    row = replace(sample.rows[1], scores={"subject": Interval(math.nan, -math.inf, 0.5)})
    run = RunOptions("can-1", {"weights": Path("a/b"), "limit": math.inf, "steps": (1, 2)})
    data = Page(page_html(replace(sample, rows=[sample.rows[0], row, *sample.rows[2:]], runs=[run]))).data
    assert data["rows"][1]["scores"]["subject"] == {"mean": None, "low": None, "high": 0.5}
    assert data["runs"][0]["options"] == {"weights": str(Path("a/b")), "limit": None, "steps": [1, 2]}


def test_cells_have_the_shape_of_the_first_image_that_is_there(tmp_path: Path) -> None:
    sample = sample_comparison()
    write_images(tmp_path, sample)
    (tmp_path / file_of(0, 0)).write_bytes(b"no image")
    (tmp_path / file_of(0, 1)).unlink()
    text = write_page(tmp_path, sample).read_text(encoding="utf-8")
    assert Page(text).data["image"] == {"width": 64, "height": 64}


def test_without_any_image_there_is_a_page_too(tmp_path: Path) -> None:
    sample = sample_comparison()
    bare = replace(sample, rows=[replace(row, cells=[None] * len(sample.columns)) for row in sample.rows])
    data = Page(write_page(tmp_path, bare).read_text(encoding="utf-8")).data
    assert (data["image"]["width"], data["image"]["height"]) == UNKNOWN_SIZE


def test_every_source_of_the_page_is_used_and_installed() -> None:
    sources = sorted(path.name for path in SOURCES.iterdir())
    assert sources == sorted(["page.html", "page.css", *SCRIPTS])
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ldm"]
    installed = {path for pattern in package_data for path in (ROOT / "ldm").glob(pattern)}
    assert {SOURCES / name for name in sources} <= installed


def test_no_source_ends_its_element() -> None:
    for name in SCRIPTS:
        assert not re.search(r"</script|<!--", (SOURCES / name).read_text(encoding="utf-8"), re.I), PurePosixPath(name)
    assert "</style" not in (SOURCES / "page.css").read_text(encoding="utf-8").lower()

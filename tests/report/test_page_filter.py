"""What the filter leaves, and the addresses of views."""

from dataclasses import replace

import pytest

from ldm.report.comparison import Cell, ComparisonData, Group
from tests.report.browser import Browser, Keys
from tests.report.pages import COLUMNS, PROMPTS, ROWS, SEEDS, STEPS, WritePage, sample_comparison

pytestmark = pytest.mark.browser


def test_the_filter_hides_rows_and_columns_at_once(browser: Browser) -> None:
    assert (browser.count("#grid tbody tr"), browser.count("#row-0 td")) == (ROWS, len(COLUMNS))
    browser.click(".chips:nth-of-type(1) .chip:nth-child(2)")
    assert browser.count("#row-0 td") == 2
    browser.click(".chips:nth-of-type(2) .chip:nth-child(1)")
    assert browser.count("#row-0 td") == 1
    assert browser.count("th.prompt") == 1
    browser.click(".chips:nth-of-type(3) .chip:nth-child(2)")
    assert browser.count("#grid tbody tr") == len(STEPS)
    assert browser.text("#shown") == "3 of 7 rows, 1 of 8 columns"
    assert browser.fragment() == "#prompt=1&seed=42&run=can-1"
    assert browser.count("#score-table tbody tr") == len(STEPS)
    browser.enlarge(2, 2)
    browser.keys(Keys.RIGHT, Keys.LEFT, Keys.UP)
    browser.wait_for(1, 2)
    assert browser.count("#strip button") == len(STEPS)
    assert browser.js("return document.querySelectorAll('[data-move][aria-disabled=true]').length") == 3
    browser.close()
    browser.click("#reset")
    assert (browser.count("#grid tbody tr"), browser.count("#row-0 td")) == (ROWS, len(COLUMNS))
    assert browser.fragment() == ""
    assert browser.count("#reset") == 0


def test_a_view_is_opened_from_its_address(browser: Browser) -> None:
    browser.open("#prompt=0&prompt=2&run=can-2&run=&prompt=99&seed=x&image=4.1")
    browser.wait_for(4, 1)
    assert browser.count("#row-4 td") == 4
    assert browser.count("#grid tbody tr") == 1 + len(STEPS)
    assert browser.count('.chip[aria-pressed="true"]') == 4
    browser.js("location.hash = '#seed=43'")
    browser.wait("!document.querySelector('#enlarged').open")
    assert browser.count("#row-0 td") == len(PROMPTS)
    browser.open("#image=99.99&row=zzz&search=%F0%9F%A6%86")
    assert browser.count("#row-0 td") == len(SEEDS)


def many_prompts() -> ComparisonData:
    """The sample with twelve prompts of one seed."""
    sample = sample_comparison()
    columns = [replace(COLUMNS[0], prompt=f"a can in place {index}", prompt_index=index) for index in range(12)]
    cells = [Cell(f"{index}.png", column.prompt) for index, column in enumerate(columns)]
    return replace(sample, columns=columns, rows=[replace(row, cells=cells) for row in sample.rows])


def test_many_prompts_are_searched(browser: Browser, written: WritePage) -> None:
    browser.open(url=written(many_prompts()))
    browser.keys("/")
    browser.keys("PLACE 1")
    assert browser.count("#row-0 td") == 3
    assert browser.count(".chips:first-of-type .chip") == 3
    assert browser.fragment() == "#search=PLACE+1"
    browser.keys("xyz")
    assert browser.count("#grid") == 0
    browser.press("#show-all")
    assert browser.count("#row-0 td") == 12
    assert browser.js("return document.querySelector('#search').value") == ""


def test_with_nothing_to_choose_there_is_no_filter(browser: Browser, written: WritePage) -> None:
    sample = sample_comparison()
    rows = [replace(row, cells=row.cells[:1]) for row in sample.rows[1:3]]
    browser.open(url=written(replace(sample, columns=COLUMNS[:1], rows=rows, groups=[Group("tin can")])))
    assert browser.count(".filters, .chip") == 0
    assert browser.count(".image") == 2
    browser.keys("/")
    assert browser.focused() is None

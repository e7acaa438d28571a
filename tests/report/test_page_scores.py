"""Curves and tables."""

from dataclasses import replace

import pytest

from ldm.report.comparison import Group
from tests.report.browser import Browser, Keys
from tests.report.pages import COLUMNS, ROWS, RUNS, SCORES, STEPS, WritePage, sample_comparison

pytestmark = pytest.mark.browser


def test_curves_have_a_point_per_checkpoint_and_lead_to_its_row(browser: Browser) -> None:
    browser.wait_for_charts()
    for score in SCORES:
        for run in RUNS:
            assert browser.count(f'[data-score="{score.name}"] [data-run="{run}"] .point') == len(STEPS)
    assert browser.count(".band") == browser.count(".line") == len(SCORES) * len(RUNS)
    assert browser.count('[data-score="subject"] .reference') == 2
    assert "ceiling 0.800" in browser.text('[data-score="subject"] .reference.ceiling')
    tops = browser.js(
        "return [...document.querySelectorAll('[data-score=subject] [data-run=can-2] .mark')]"
        ".map(one => one.getBoundingClientRect().top)"
    )
    assert tops == sorted(tops, reverse=True), "a score that rises goes up"
    last = '[data-score="copy"] [data-run="can-2"] .point:last-child'
    browser.js("document.querySelector(arguments[0]).focus()", last)
    assert "0.250" in browser.text('[data-score="copy"] .note')
    assert browser.js("return document.querySelector(arguments[0]).getAttribute('aria-label')", last) == (
        "step 600 of can-2: 0.250 (0.200 to 0.300)"
    )
    browser.keys(Keys.ENTER)
    assert browser.focused() == (ROWS - 1, 0)


def test_arrow_keys_move_along_a_curve(browser: Browser) -> None:
    browser.wait_for_charts()
    assert browser.count('.point[tabindex="0"]') == len(SCORES), "one stop of the tab key per chart"
    browser.focus('[data-score="subject"] .point')
    reached = []
    for key in (Keys.RIGHT, Keys.RIGHT, Keys.LEFT, Keys.LEFT, Keys.LEFT):
        browser.keys(key)
        reached.append(int(browser.js("return document.activeElement.dataset.step")))
    assert reached == [400, 600, 400, 200, 200]
    assert browser.count('.point[tabindex="0"]') == len(SCORES)


def test_runs_differ_in_colour_and_marker(browser: Browser, written: WritePage) -> None:
    sample = sample_comparison()
    rows = [
        replace(row, run=f"can-{run}", label=f"can-{run} step {row.step}")
        for run in range(1, 9)
        for row in sample.rows[1:4]
    ]
    rows = [replace(row, cells=row.cells[:1]) for row in rows]
    browser.open(url=written(replace(sample, rows=rows, columns=COLUMNS[:1], groups=[Group("tin can")])))
    browser.wait_for_charts()
    looks = browser.js(
        "return [...document.querySelectorAll('[data-score=copy] .curve')].map(one => "
        "getComputedStyle(one.querySelector('.line')).stroke + one.querySelector('.mark').getAttribute('d'))"
    )
    assert len(set(looks)) == 8


def test_the_filter_holds_for_curves(browser: Browser) -> None:
    browser.open("#run=can-2")
    browser.wait("document.querySelectorAll('.chart svg .point').length === 6")
    assert browser.count(".legend li") == 2, "the run and the ring of the recommended row"


def test_scores_are_sorted_by_their_headings(browser: Browser) -> None:
    order = "return [...document.querySelectorAll('#score-table tbody tr')].map(one => Number(one.dataset.row))"
    heading = "#score-table th:nth-child(2)"
    rising = sorted(range(ROWS), key=lambda row: (0.02, 0.2, 0.4, 0.6, 0.25, 0.45, 0.65)[row])
    assert browser.js(order) == list(range(ROWS))
    for expected, direction in [(rising[::-1], "descending"), (rising, "ascending"), (list(range(ROWS)), None)]:
        browser.click(f"{heading} button")
        assert browser.js(order) == expected
        assert browser.js("return document.querySelector(arguments[0]).ariaSort", heading) == direction
    browser.click("#score-table th:nth-child(3) button")
    assert browser.js(order) == rising[::-1], "the best first, which is the lowest here"
    browser.click("#score-table tbody a")
    assert browser.focused() == (rising[-1], 0)


def test_options_that_differ_are_first(browser: Browser) -> None:
    names = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
    assert browser.js(names, "table.differing tbody th") == ["learning_rate", "flip"]
    assert browser.js(names, "table.differing tbody td") == ["0.0001", "0.0005", "not known", "yes"]
    assert browser.js(names, "#options details tbody th") == ["seed", "ckpt_path", "hw"]
    assert browser.count("#options details table") == 0
    assert "python txt2img.py" in browser.text("#record")

"""Other people's text stays text, and the page reaches for no network."""

from dataclasses import replace

import pytest

from ldm.evaluation.results import Recommendation
from ldm.report.comparison import Row, RunOptions
from tests.report.browser import Browser
from tests.report.pages import HOSTILE, WritePage, sample_comparison

pytestmark = pytest.mark.browser


def test_hostile_text_is_only_text(browser: Browser, written: WritePage) -> None:
    sample = sample_comparison()
    nasty: list[Row] = [
        replace(row, run=row.run and HOSTILE, label=HOSTILE, checkpoint=HOSTILE, cells=row.cells)
        for row in sample.rows[:4]
    ]
    groups = [replace(sample.groups[0], subject=HOSTILE, recommendation=Recommendation(1, HOSTILE, [HOSTILE]))]
    scores = [replace(score, title=HOSTILE, explanation=HOSTILE) for score in sample.scores]
    url = written(
        replace(
            sample, title=HOSTILE, command=HOSTILE, rows=nasty, groups=groups, scores=scores, rule=HOSTILE,
            runs=[RunOptions(HOSTILE, {HOSTILE: HOSTILE, "__proto__": HOSTILE})], sampling={HOSTILE: HOSTILE},
        )
    )  # fmt: skip
    browser.open(url=url)
    browser.wait_for_charts()
    browser.enlarge(1, 6)
    browser.wait("document.querySelector('#enlarged-prompt').textContent.includes(arguments[0])", HOSTILE)
    assert browser.js("return window.hacked ?? null") is None
    assert browser.js("return document.title") == HOSTILE
    assert browser.text(".verdict") == HOSTILE
    assert browser.text("#options tbody td") == HOSTILE
    assert browser.count("img[src=x]") == 0
    browser.close()
    browser.click(".chips:last-of-type .chip:last-child")
    browser.open(browser.fragment(), url)
    assert browser.count("#grid tbody tr") == 3


def test_the_policy_keeps_the_page_from_any_network(browser: Browser) -> None:
    browser.js("new Image().src = 'http://127.0.0.1:9/a.png'; fetch('http://127.0.0.1:9/').catch(() => {})")
    browser.js("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    browser.wait("true")
    said = browser.said()
    assert len(said) >= 3
    assert all("Content Security Policy" in line for line in said if "net::" not in line)
    assert browser.js("return window.hacked ?? null") is None

"""The grid of images in Chromium."""

from dataclasses import replace
from pathlib import Path

import pytest

from ldm.evaluation.results import Interval, Score
from tests.report.browser import Browser, Keys, image
from tests.report.pages import COLUMNS, COPY, MISSING, PROMPTS, ROWS, SEEDS, WritePage, file_of, sample_comparison

pytestmark = pytest.mark.browser


def test_every_image_loads(browser: Browser) -> None:
    assert browser.count(".image img") == ROWS * len(COLUMNS) - 1
    assert browser.count(".empty") == 1
    assert browser.js("return [...document.images].every(one => one.loading === 'lazy')")
    browser.js("for (const one of document.images) one.loading = 'eager'")
    browser.wait("[...document.images].every(one => one.complete && one.naturalWidth > 0)")


def test_columns_have_headings_and_images_alternative_texts(browser: Browser) -> None:
    heads = browser.js("return [...document.querySelectorAll('th.prompt')].map(one => [one.textContent, one.colSpan])")
    assert heads == [[prompt.replace("{class}", "tin can"), len(SEEDS)] for prompt in PROMPTS]
    assert browser.js("return document.querySelector(arguments[0]).alt", f"{image(2, 1)} img") == (
        "a photo of sks tin can, seed 43, step 400 of can-1"
    )
    label = browser.text("#row-0 th")
    assert "base model" in label
    assert "0.020" in label


def test_an_image_that_is_not_there_is_an_empty_cell_with_a_word(browser: Browser, written: WritePage) -> None:
    row, column = MISSING
    assert browser.text(f"#row-{row} td:nth-of-type({column + 1})") == "not sampled"
    url = written(sample_comparison())
    (Path(url.removeprefix("file://")).parent / file_of(0, 0)).unlink()
    browser.open(url=url)
    browser.wait("document.querySelector('#row-0 td').textContent === 'file missing'")
    assert [line for line in browser.said() if "ERR_FILE_NOT_FOUND" not in line] == []


def test_a_copy_of_a_photo_is_labelled(browser: Browser) -> None:
    assert browser.texts(".image .copy") == ["copy of photo 2"]
    assert browser.alt(f"{image(*COPY)} img").endswith("step 600 of can-2, copy of photo 2")
    browser.enlarge(*COPY)
    assert "copy of photo 2" in browser.text("#enlarged-name")
    assert browser.texts(".values tbody tr:last-child td")[0] == "yes"


def test_headers_stay_while_the_grid_scrolls(browser: Browser) -> None:
    browser.resize(900, 500)
    browser.js("document.querySelector('#scroller').scrollIntoView()")
    before, first = browser.box("#scroller"), browser.box(image(0, 0))
    browser.js("document.querySelector('#scroller').scrollTo(150, 200)")
    assert browser.box(image(0, 0))["top"] == first["top"] - 200
    assert browser.box(image(0, 0))["left"] == first["left"] - 150
    assert browser.box("#grid thead")["top"] == pytest.approx(before["top"] + 1)
    assert browser.box("#row-2 th")["left"] == pytest.approx(before["left"] + 1)
    covering = "return document.elementFromPoint(arguments[0], arguments[1]).closest('th')?.className"
    assert browser.js(covering, before["left"] + 20, before["top"] + 10) == "corner"
    assert browser.js(covering, before["left"] + 300, before["top"] + 10) == "prompt"
    assert browser.js(covering, before["left"] + 20, before["top"] + 250) == ""


def test_arrow_keys_move_among_the_images(browser: Browser) -> None:
    assert browser.count('.image[tabindex="0"]') == 1
    browser.focus('.image[tabindex="0"]')
    moves = [
        (Keys.RIGHT, (0, 1)),
        (Keys.DOWN, (1, 1)),
        (Keys.LEFT, (1, 0)),
        (Keys.LEFT, (1, 0)),
        (Keys.UP, (0, 0)),
        (Keys.UP, (0, 0)),
        (Keys.END, (0, len(COLUMNS) - 1)),
        (Keys.HOME, (0, 0)),
        (Keys.CONTROL + Keys.END + Keys.CONTROL, (ROWS - 1, len(COLUMNS) - 1)),
        (Keys.CONTROL + Keys.HOME + Keys.CONTROL, (0, 0)),
    ]
    for key, expected in moves:
        browser.keys(key)
        assert browser.focused() == expected
    assert browser.count('.image[tabindex="0"]') == 1
    browser.focus(image(MISSING[0] - 1, MISSING[1]))
    browser.keys(Keys.DOWN)
    assert browser.focused() == (MISSING[0] + 1, MISSING[1]), "the empty cell is passed over"


def test_images_have_whole_multiples_of_their_size(browser: Browser) -> None:
    widths = [browser.box(image(0, 0))["width"]]
    for key in ("+", "+", "-"):
        browser.keys(key)
        widths.append(browser.box(image(0, 0))["width"])
    assert widths == [128, 192, 256, 192]
    for _ in range(9):
        browser.click("#larger")
    assert browser.box(image(0, 0))["width"] == 384
    assert browser.js("return document.querySelector('#larger').disabled")
    assert browser.js("return getComputedStyle(document.querySelector('.image img')).imageRendering") == "pixelated"


def test_row_labels_show_the_whole_name_of_every_score(browser: Browser, written: WritePage) -> None:
    titles = ["Subject fidelity", "Image similarity", "Prompt fidelity", "Leakage into the class", "Drift of the class"]
    sample = sample_comparison()
    rows = [replace(row, scores={title: Interval(0.5, 0.4, 0.6) for title in titles}) for row in sample.rows]
    browser.open(url=written(replace(sample, rows=rows, scores=[Score(title, title, True, "") for title in titles])))
    assert browser.texts("#row-1 dt") == titles
    cut_off = "[...document.querySelectorAll('#grid dt')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert browser.js(f"return {cut_off}") == 0

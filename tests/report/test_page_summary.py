"""The top of the page: what was compared, and which checkpoint to use."""

from dataclasses import replace

import pytest

from ldm.evaluation.results import Recommendation
from ldm.report.comparison import Group
from tests.report.browser import Browser
from tests.report.pages import ROWS, WritePage, sample_comparison

pytestmark = pytest.mark.browser


def test_the_top_has_the_facts_and_the_recommendation(browser: Browser) -> None:
    facts = browser.text("#facts")
    for fact in ("tin can", "6 checkpoints and the base model", "4 prompts", "2 seeds", "55 images"):
        assert fact in facts
    assert browser.text(".verdict") == "Step 400 of can-1: it is there."
    assert browser.text(".verdict strong") == "Step 400 of can-1"
    assert browser.texts(".reasons li") == ["The subject is there.", "Prompts are still followed."]
    assert "The earliest of the best." in browser.text(".rule")
    assert browser.count(".rule p") == 0, "behind a disclosure"
    assert browser.count(".panel .photos img") == 2


def test_the_recommended_row_is_labelled_and_a_button_shows_it(browser: Browser) -> None:
    assert browser.texts("#grid .tag") == browser.texts("#row-2 .tag") == ["recommended"]
    browser.click(".use button")
    assert browser.focused() == (2, 0)
    assert browser.box("#row-2")["top"] >= browser.box("#grid thead")["bottom"] - 1


def test_without_scores_nothing_empty_is_shown(browser: Browser, written: WritePage) -> None:
    sample = sample_comparison()
    rows = [
        replace(row, scores={}, cells=[cell and replace(cell, scores={}) for cell in row.cells]) for row in sample.rows
    ]
    groups = [Group("tin can", [])]
    browser.open(url=written(replace(sample, rows=rows, groups=groups, runs=[], rule="", versions={})))
    assert browser.count("#curves, #scores, #options, .panel, #grid dl") == 0
    assert browser.count(".topbar a") == 1
    assert "not scored" in browser.text("#summary")
    browser.enlarge(0, 0)
    assert browser.count(".values, .enlarged .photos") == 0


def test_no_clear_difference_has_no_recommended_row(browser: Browser, written: WritePage) -> None:
    sample = sample_comparison()
    undecided = replace(sample.groups[0], recommendation=Recommendation(None, "No clear difference", []))
    browser.open(url=written(replace(sample, groups=[undecided])))
    assert browser.text(".verdict") == "No clear difference"
    assert browser.count(".use, .reasons, #grid .tag") == 0


def test_each_subject_has_its_own_part(browser: Browser, written: WritePage) -> None:
    sample = sample_comparison()
    other = [
        replace(
            row,
            group=1,
            run=row.run and "dog-1",
            label=f"dog {row.label}",
            cells=[cell and replace(cell, prompt=cell.prompt.replace("tin can", "dog")) for cell in row.cells],
        )
        for row in sample.rows[:3]
    ]
    dog = Group("dog", ["photos/dog.png"], {}, Recommendation(ROWS + 1, "Step 200 of dog-1", []))
    browser.open(url=written(replace(sample, rows=[*sample.rows, *other], groups=[*sample.groups, dog])))
    assert browser.count(".panel") == 2
    assert browser.count("#grid tr.group") == 2
    assert browser.text("th.prompt") == "a photo of sks tin can / dog"
    assert browser.count("#grid .tag") == 2
    browser.wait("document.querySelectorAll('.chart svg').length === 4")
    browser.enlarge(ROWS + 2, 0)
    assert browser.alt("#about .photos img") == "photo 1 of dog"
    browser.keys("b")
    browser.wait_for(ROWS, 0)


def test_an_unfinished_comparison_says_what_is_missing_and_how_to_continue(
    browser: Browser, written: WritePage
) -> None:
    sample = sample_comparison()
    rows = [replace(row, cells=[*row.cells[:2], *[None] * 6]) for row in sample.rows[:3]]
    command = "python evaluate.py -r 'my `outputs`/evaluate-1'"
    unfinished = "6 of 56 images are there, from 3 of 7 checkpoints."
    browser.open(url=written(replace(sample, rows=rows, unfinished=unfinished, resume_command=command)))
    assert browser.text(".unfinished") == f"Unfinished. {unfinished} Continue with {command}"
    assert browser.texts("th.prompt")[1] == "a photo of sks tin can in the snow"
    browser.open()
    assert browser.count(".unfinished") == 0


def test_the_initial_image_of_img2img_is_shown(browser: Browser, written: WritePage) -> None:
    sample = sample_comparison()
    browser.open(url=written(replace(sample, init_image=sample.groups[0].photos[0])))
    browser.wait("document.querySelector('[aria-label=\"Initial image\"] img').naturalWidth === 64")

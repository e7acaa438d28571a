"""One image, large, and its neighbours a key, a button or a swipe away."""

import pytest

from tests.report.browser import Browser, Keys, image
from tests.report.pages import MISSING, ROWS

pytestmark = pytest.mark.browser


def test_an_image_is_enlarged_and_escape_returns_to_it(browser: Browser) -> None:
    browser.focus(image(2, 3))
    browser.keys(Keys.ENTER)
    browser.wait_for(2, 3)
    assert browser.js("return document.querySelector('#image img').naturalWidth") == 64
    assert browser.box("#image img")["width"] > 400
    shown = browser.text("#enlarged")
    for part in ("step 400", "can-1", "recommended", "a photo of sks tin can in the snow", "seed 43", "0.200"):
        assert part in shown
    assert "step-00400.safetensors" in shown
    browser.close()
    assert browser.focused() == (2, 3)
    assert browser.fragment() == ""


def test_keys_flip_to_the_neighbours_and_stop_at_the_ends(browser: Browser) -> None:
    browser.enlarge(0, 0)
    moves = [
        (Keys.DOWN, (1, 0)),
        (Keys.RIGHT, (1, 1)),
        (Keys.UP, (0, 1)),
        (Keys.LEFT, (0, 0)),
        (Keys.END, (ROWS - 1, 0)),
        (Keys.HOME, (0, 0)),
    ]
    for key, (row, column) in moves:
        browser.keys(key)
        browser.wait_for(row, column)
        assert browser.alt("#image img") == browser.js(
            "return document.querySelector(arguments[0]).alt", f"{image(row, column)} img"
        )
    browser.keys(Keys.UP, Keys.LEFT, Keys.RIGHT)
    browser.wait_for(0, 1)
    browser.keys(Keys.LEFT)
    browser.wait_for(0, 0)
    disabled = "return [...document.querySelectorAll('[data-move][aria-disabled=true]')].map(one => one.dataset.move)"
    assert browser.js(disabled) == ["up", "left"]
    browser.keys(Keys.END)
    browser.wait_for(ROWS - 1, 0)
    assert browser.js(disabled) == ["down", "left"]
    browser.close()
    assert browser.focused() == (ROWS - 1, 0), "the image that was looked at last"


def test_buttons_and_the_strip_flip_too(browser: Browser) -> None:
    browser.enlarge(MISSING[0] - 1, MISSING[1])
    browser.click('[data-move="down"]')
    browser.wait_for(MISSING[0] + 1, MISSING[1])
    assert browser.count("#strip button") == ROWS - 1
    assert browser.js("return document.querySelector('#strip [aria-current=true]').dataset.row") == str(MISSING[0] + 1)
    browser.click('#strip [data-row="1"]')
    browser.wait_for(1, MISSING[1])
    browser.click("#close")
    browser.wait("!document.querySelector('#enlarged').open")


def test_one_key_compares_with_the_base_model_and_the_recommended_row(browser: Browser) -> None:
    browser.enlarge(5, 2)
    for key, row in [("b", 0), ("b", 5), ("r", 2), ("r", 5)]:
        browser.keys(key)
        browser.wait_for(row, 2)


def test_an_image_is_shown_when_it_is_decoded_and_not_before(browser: Browser) -> None:
    browser.js(
        """const decode = HTMLImageElement.prototype.decode;
        HTMLImageElement.prototype.decode = async function () {
          await decode.call(this);
          this.isDecoded = true;
        };
        window.shown = [];
        new MutationObserver(changes => {
          for (const image of changes.flatMap(change => [...change.addedNodes])) {
            shown.push([image.isDecoded, image.complete, image.naturalWidth]);
          }
        }).observe(document.querySelector("#image"), {childList: true});"""
    )
    browser.enlarge(0, 0)
    for row in range(1, ROWS):
        browser.keys(Keys.DOWN)
        browser.wait_for(row, 0)
    assert browser.js("return shown") == [[True, True, 64]] * ROWS


def test_neighbours_are_read_ahead(browser: Browser) -> None:
    browser.js(
        """window.read = [];
        const decode = HTMLImageElement.prototype.decode;
        HTMLImageElement.prototype.decode = function () {
          read.push(this.src);
          return decode.call(this);
        };"""
    )
    browser.enlarge(2, 2)
    neighbours = [(2, 2), (1, 2), (3, 2), (2, 1), (2, 3)]
    wanted = [
        browser.js("return document.querySelector(arguments[0]).src", f"{image(row, column)} img")
        for row, column in neighbours
    ]
    assert sorted(browser.js("return read")) == sorted(wanted)
    browser.keys(Keys.DOWN)
    browser.wait_for(3, 2)
    assert len(browser.js("return read")) == 5 + 3, "the one above is known"


def test_photos_are_shown_beside_and_the_nearest_is_marked(browser: Browser) -> None:
    browser.enlarge(2, 1)
    assert browser.count("#about .photos img") == 2
    assert browser.js("return [...document.querySelectorAll('#about .nearest img')].map(one => one.alt)") == [
        "photo 2 of tin can"
    ]
    assert browser.count("#beside img") == 0
    browser.keys("p")
    assert browser.alt("#beside img") == "photo 2 of tin can", "the nearest first"
    browser.keys(Keys.LEFT)
    browser.wait_for(2, 0)
    browser.wait("document.querySelector('#beside img').naturalWidth === 64")
    assert browser.box("#beside img")["width"] == pytest.approx(browser.box("#image img")["width"], abs=1)
    browser.keys(Keys.RIGHT)
    browser.wait_for(2, 1)
    browser.keys("p")
    assert browser.alt("#beside img") == "photo 1 of tin can"
    browser.keys("p")
    assert browser.count("#beside img") == 0


def test_keys_flip_on_after_a_button_was_pressed(browser: Browser) -> None:
    browser.enlarge(2, 0)
    browser.press("#about .photos button:nth-child(2)")
    assert browser.alt("#beside img") == "photo 2 of tin can"
    for key, (row, column) in [(Keys.UP, (1, 0)), (Keys.RIGHT, (1, 1))]:
        browser.keys(key)
        browser.wait_for(row, column)
    browser.press('#strip [data-row="4"]')
    browser.wait_for(4, 1)
    for key, (row, column) in [(Keys.LEFT, (4, 0)), (Keys.DOWN, (5, 0))]:
        browser.keys(key)
        browser.wait_for(row, column)
    browser.keys("?")
    browser.wait("document.querySelector('#help').open")
    browser.keys(Keys.UP)
    browser.keys(Keys.ESCAPE)
    browser.wait("!document.querySelector('#help').open")
    browser.keys(Keys.RIGHT)
    browser.wait_for(5, 1)


def test_a_swipe_flips(browser: Browser) -> None:
    browser.resize(390, 844, touch=True)
    browser.open()
    browser.enlarge(1, 0)
    box = browser.box("#stage")
    x, y = int(box["left"] + box["width"] / 2), int(box["top"] + box["height"] / 2)
    for by, (row, column) in [((-90, 10), (1, 1)), ((5, -90), (2, 1)), ((90, 0), (2, 0)), ((0, 90), (1, 0))]:
        browser.swipe((x, y), by)
        browser.wait_for(row, column)

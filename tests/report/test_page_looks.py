"""Dark and light, narrow and wide, and the keys that work anywhere."""

import pytest

from tests.report.browser import Browser, Keys

pytestmark = pytest.mark.browser


LUMINANCES = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const painted = (under, color) => {
  canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
  return `rgb(${r} ${g} ${b})`;
};
const luminance = color => color.match(/\\d+/g).map(Number).map(value => value / 255)
  .map(value => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const background = node => {
  const under = node.parentElement ? background(node.parentElement) : "white";
  return painted(under, getComputedStyle(node).backgroundColor);
};
"""

CONTRASTS = (
    LUMINANCES
    + """
const faint = [];
for (const node of document.querySelectorAll("body *")) {
  const text = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
  if (!text || !node.checkVisibility() || node.closest("[aria-disabled=true], :disabled, script, style")) continue;
  const style = getComputedStyle(node);
  const under = background(node);
  const color = painted(under, node.closest("svg") ? style.fill : style.color);
  const [dark, light] = [luminance(color), luminance(under)].sort((a, b) => a - b);
  const ratio = (light + 0.05) / (dark + 0.05);
  if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${node.tagName}.${node.className} ${node.textContent.slice(0, 30)}`);
}
return faint;
"""
)

DARKNESS = LUMINANCES + "return luminance(background(document.body))"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(browser: Browser, scheme: str) -> None:
    browser.prefer(scheme)
    browser.wait_for_charts()
    browser.js("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.click(".chip")
    assert browser.js(CONTRASTS) == []
    browser.enlarge(2, 0)
    assert browser.js(CONTRASTS) == []


def test_dark_and_light_follow_the_system_until_chosen(browser: Browser) -> None:
    assert browser.js(DARKNESS) > 0.8
    browser.prefer("dark")
    assert browser.js(DARKNESS) < 0.05
    browser.click("#theme")
    assert browser.js(DARKNESS) > 0.8
    browser.open()
    assert browser.js(DARKNESS) > 0.8, "remembered"
    browser.keys("t")
    assert browser.js(DARKNESS) < 0.05


def test_the_theme_works_where_nothing_can_be_stored(browser: Browser) -> None:
    forbid = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    script = browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=forbid)
    try:
        browser.open()
        browser.click("#theme")
        assert browser.js(DARKNESS) < 0.05
    finally:
        browser.cdp("Page.removeScriptToEvaluateOnNewDocument", **script)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_only_the_grid_is_wider_than_the_window(browser: Browser, width: int) -> None:
    browser.resize(width, 844, touch=width < 600)
    browser.open()
    browser.wait_for_charts()
    browser.js("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.js("return document.documentElement.scrollWidth") <= width
    assert browser.js(
        "const {scrollWidth, clientWidth} = document.querySelector('#scroller'); return scrollWidth > clientWidth"
    )
    assert browser.box("#row-1 th")["width"] < width / 3
    browser.enlarge(1, 1)
    assert browser.js("const one = document.querySelector('#enlarged'); return one.scrollWidth <= one.clientWidth")
    image_box = browser.box("#image img")
    assert image_box["width"] > 0.5 * min(width, 844)
    assert image_box["bottom"] < 844


def test_help_and_the_parts_are_a_key_away(browser: Browser) -> None:
    browser.keys("?")
    assert browser.count("#help kbd") > 10
    browser.keys(Keys.ESCAPE)
    browser.wait("!document.querySelector('#help').open")
    browser.keys("r")
    assert browser.focused() == (2, 0)
    browser.click('.topbar a[href="#scores"]')
    browser.wait("document.activeElement.closest('#scores') !== null")
    assert browser.fragment() == ""
    assert browser.box("#scores")["top"] < 900

"""A browser for tests of pages: Chromium without a window, one for all of them."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ldm.report.comparison import ComparisonData
from ldm.report.page import write_page
from tests.report.browser import Browser
from tests.report.pages import WritePage, sample_comparison, write_images

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The driver of a fresh Chromium. Both programs are given, so selenium downloads none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("Chromium and chromedriver are not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
        yield chrome
        chrome.quit()


@pytest.fixture(scope="session")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample's page, in a directory whose name a URL can't hold as it is."""
    directory = tmp_path_factory.mktemp("a comparison #1")
    write_images(directory, sample_comparison())
    return write_page(directory, sample_comparison()).as_uri()


@pytest.fixture
def browser(chromium: Any, page_url: str) -> Iterator[Browser]:
    """At the sample's page, 1200 x 900 and light; its console is empty in the end and every value has words."""
    browser = Browser(chromium, page_url)
    browser.resize(1200, 900)
    browser.prefer("light")
    browser.open()
    browser.js("localStorage.clear()")
    yield browser
    assert browser.said() == []
    assert not re.search(r"\b(undefined|null|NaN|true|false|\[object)\b", browser.js("return document.body.innerText"))


@pytest.fixture
def written(tmp_path: Path) -> WritePage:
    """Writes a comparison's images and its page, and returns the page's URL."""

    def write(comparison: ComparisonData) -> str:
        write_images(tmp_path, comparison)
        return write_page(tmp_path, comparison).as_uri()

    return write

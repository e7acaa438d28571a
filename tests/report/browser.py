"""Chromium driven by tests of the page."""

import time
from typing import Any

PATIENCE = 15  # seconds; a busy machine makes no test fail


class Keys:
    """Special keys by the codes of the WebDriver standard."""

    CONTROL, ENTER, ESCAPE = "\ue009", "\ue007", "\ue00c"
    END, HOME = "\ue010", "\ue011"
    LEFT, UP, RIGHT, DOWN = "\ue012", "\ue013", "\ue014", "\ue015"


def image(row: int, column: int) -> str:
    """The selector of an image in the grid."""
    return f'.image[data-row="{row}"][data-column="{column}"]'


class Browser:
    """One page at a time. Selectors are CSS; what scripts return comes back as JSON does."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, fragment: str = "", url: str = "") -> None:
        """Loads the page anew."""
        self.driver.get("about:blank")  # another fragment alone would not load anything
        self.driver.get((url or self.url) + fragment)

    def js(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def wait(self, condition: str, *arguments: object) -> None:
        """Waits until the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.js(f"return Boolean({condition})", *arguments):
            assert time.monotonic() < end, f"never true: {condition} {arguments}"
            time.sleep(0.01)

    def cdp(self, command: str, **parameters: object) -> Any:
        """A command of Chromium's own protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def said(self) -> list[str]:
        """What stands on the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    # --- what a person does

    def click(self, selector: str) -> None:
        """Also where something else is in front of it."""
        self.js("document.querySelector(arguments[0]).click()", selector)

    def press(self, selector: str) -> None:
        """With the mouse: what is clicked gets the focus."""
        self.driver.find_element("css selector", selector).click()

    def focus(self, selector: str) -> None:
        self.js("document.querySelector(arguments[0]).focus()", selector)

    def keys(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def swipe(self, start: tuple[int, int], by: tuple[int, int]) -> None:
        x, y = start
        self.cdp("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        for share in (0.5, 1.0):
            point = {"x": x + share * by[0], "y": y + share * by[1]}
            self.cdp("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
        self.cdp("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        """Makes the page's window, or phone, this large."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=touch)

    def prefer(self, scheme: str) -> None:
        """Dark or light, as the system's preference, and as little motion as possible."""
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}, still])

    def enlarge(self, row: int, column: int) -> None:
        self.click(image(row, column))
        self.wait_for(row, column)

    def close(self) -> None:
        """Closes the enlarged image; the focus is in the grid then."""
        self.keys(Keys.ESCAPE)
        self.wait("!document.querySelector('#enlarged').open && document.activeElement.matches('.image')")

    # --- what a person sees

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)", selector)

    def count(self, selector: str) -> int:
        """How many of these are shown."""
        return self.js(
            "return [...document.querySelectorAll(arguments[0])].filter(one => one.checkVisibility()).length", selector
        )

    def box(self, selector: str) -> dict[str, float]:
        return self.js("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector)

    def alt(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).alt", selector)

    def fragment(self) -> str:
        return self.js("return location.hash")

    def focused(self) -> tuple[int, int] | None:
        """Row and column of the image that has the focus."""
        row, column = self.js(
            "const {row, column} = document.activeElement.dataset; return [row ?? null, column ?? null]"
        )
        return None if row is None or column is None else (int(row), int(column))

    def wait_for(self, row: int, column: int) -> None:
        """Waits until this image is the enlarged one."""
        self.wait("new URLSearchParams(location.hash.slice(1)).get('image') === arguments[0]", f"{row}.{column}")

    def wait_for_charts(self) -> None:
        self.wait("document.querySelectorAll('.chart svg .point').length")

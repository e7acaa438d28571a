"""Labels with letters that Pillow's own font lacks are drawn in a system font that has them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageFont

from ldm.report.fonts import SYSTEM_FONTS, font_for

PLAIN = "a photo of sks bottle: 100 %"


class Letters(SimpleNamespace):
    """A font of these letters; others are boxes."""

    letters: str

    def getmask(self, character: str) -> Any:
        return Image.new("L", (4, 4), ord(character) % 200 if character in self.letters else 255).im


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Puts fonts of these letters into the system, by name; returns the names of the loaded ones."""

    def install(*fonts: str) -> list[str]:
        asked: list[str] = []
        own = ImageFont.truetype

        def truetype(name: Any, *others: Any, **options: Any) -> Any:
            if not isinstance(name, str):  # Pillow's own comes in memory
                return own(name, *others, **options)
            asked.append(name)
            if name not in found:
                raise OSError("cannot open resource")
            return Letters(name=name, letters=found[name])

        found = dict(zip(SYSTEM_FONTS, fonts, strict=False))
        monkeypatch.setattr(ImageFont, "truetype", truetype)
        return asked

    return install


def test_english_needs_no_other_font(installed: Callable[..., list[str]]) -> None:
    asked = installed(PLAIN)
    assert isinstance(font_for(PLAIN, 12), ImageFont.FreeTypeFont)
    assert asked == []


def test_the_first_font_that_has_all_letters_is_taken(installed: Callable[..., list[str]]) -> None:
    asked = installed("кот", "кот猫", "кот猫")
    assert font_for("кот", 12).name == SYSTEM_FONTS[0]
    assert font_for("кот\n 猫", 12).name == SYSTEM_FONTS[1]
    assert SYSTEM_FONTS[2] not in asked


def test_else_one_that_has_the_most(installed: Callable[..., list[str]]) -> None:
    installed("к", "кот", "кот")
    assert font_for("кот猫", 12).name == SYSTEM_FONTS[1]


def test_without_such_a_font_the_best_one_is_used(installed: Callable[..., list[str]]) -> None:
    asked = installed()
    assert isinstance(font_for("猫", 12), ImageFont.FreeTypeFont)
    assert asked == list(SYSTEM_FONTS)


def test_an_empty_text_has_a_font() -> None:
    assert isinstance(font_for("", 12), ImageFont.FreeTypeFont)

"""The font of labels: Pillow's own, or one of the system's for letters that Pillow's lacks."""

from collections.abc import Iterator

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
)
"""On Linux for accents, Cyrillic and Greek, then for Chinese and Japanese too; on macOS for all of them."""

NO_CHARACTER = "\U0010ffff"
"""No font has it: it is drawn as a missing letter, mostly a box."""


def font_for(text: str, size: int) -> Font:
    """The first font that has every letter of the text, else the first that lacks the fewest."""
    best, fewest = None, len(text) + 1
    for font in _fonts(size):
        if (lacking := _lacking(font, text)) < fewest:
            best, fewest = font, lacking
        if fewest == 0:
            break
    assert best is not None, "Pillow's own is always there"
    return best


def _fonts(size: int) -> Iterator[Font]:
    """One by one: each search reads the system's directories."""
    yield ImageFont.load_default(size=size)
    for name in SYSTEM_FONTS:
        try:
            yield ImageFont.truetype(name, size)
        except OSError:  # not installed
            continue


def _lacking(font: Font, text: str) -> int:
    """How many different characters of a text the font draws like a missing one."""
    missing = _drawn(font, NO_CHARACTER)
    return sum(_drawn(font, character) == missing for character in {*text} if not character.isspace())


def _drawn(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)

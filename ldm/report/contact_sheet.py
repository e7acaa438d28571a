"""A contact sheet: small images side by side, each with a line or two of text below it."""

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageOps

from ldm.report.fonts import font_for
from ldm.terminal import visible

CELL, MARGIN, COLUMNS = 224, 8, 5
LETTERS, LINES, LINE = 34, 3, 15
"""Letters of a line, lines below an image at most, and pixels from line to line."""


def contact_sheet(images: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """One image of all, in rows of `COLUMNS`; each (label, image) is shrunk to fit, never cropped."""
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    width, height = CELL + MARGIN, CELL + LINES * LINE + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = font_for("".join(label for label, _ in images), 12)
    for index, (label, image) in enumerate(images):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * width, MARGIN + row * height
        method = Image.Resampling.NEAREST if max(image.size) < CELL else Image.Resampling.LANCZOS
        sheet.paste(ImageOps.contain(image, (CELL, CELL), method), (left, top))
        lines = [part for line in label.split("\n") for part in wrap(visible(line), LETTERS)][:LINES]
        for number, line in enumerate(lines):
            draw.text((left, top + CELL + number * LINE), line, "black", font)
    return sheet

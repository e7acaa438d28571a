"""A labelled grid of images, on as many pages as it needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from textwrap import wrap

from PIL import Image, ImageDraw, ImageOps

from ldm.report.fonts import Font, font_for
from ldm.terminal import visible_lines

MARGIN = 8
MIN_CELL, MAX_SHEET = 160, 8192
"""Pixels: small images are enlarged to `MIN_CELL`, without blur; a sheet has at most `MAX_SHEET` on a side."""
MAX_PAGE = 6000
"""Pixels on a side of all cells of a page: what an image viewer opens quickly."""


@dataclass(frozen=True)
class Heading:
    """A heading over neighbouring columns."""

    text: str
    columns: int


@dataclass(frozen=True)
class Span:
    """The rows or columns of a page: from `start` up to but not including `end`."""

    start: int
    end: int

    @property
    def places(self) -> slice:
        """The span as a slice of all rows or columns."""
        return slice(self.start, self.end)


def labelled_grid(
    cells: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    headings: Sequence[Heading] = (),
) -> Image.Image:
    """One image of all `cells[row][column]`; None is an empty cell. Labels are wrapped at the width of their cells."""
    images = [cell for row in cells for cell in row if cell is not None]
    width, height = max(image.width for image in images), max(image.height for image in images)
    enlarge = enlargement(width, height)
    scale = min(enlarge, MAX_SHEET / (width * len(column_labels)), MAX_SHEET / (height * len(row_labels)))
    width, height = max(1, int(width * scale)), max(1, int(height * scale))

    row_labels, column_labels = [*map(visible_lines, row_labels)], [*map(visible_lines, column_labels)]
    headings = [replace(one, text=visible_lines(one.text)) for one in headings]
    labels = [*row_labels, *column_labels, *(one.text for one in headings)]
    font = font_for("".join(labels), max(11, min(20, width // 14)))
    left = [_wrapped(label, font, max(120, min(width, 260))) for label in row_labels]
    above = [_wrapped(one.text, font, one.columns * (width + MARGIN) - MARGIN) for one in headings]
    top = [_wrapped(label, font, width) for label in column_labels]
    left_width = max(_size(text, font)[0] for text in left) + 2 * MARGIN
    above_height = max((_size(text, font)[1] for text in above), default=-MARGIN) + MARGIN
    top_height = above_height + max(_size(text, font)[1] for text in top) + 2 * MARGIN

    sheet = Image.new(
        "RGB",
        (left_width + (width + MARGIN) * len(column_labels), top_height + (height + MARGIN) * len(row_labels)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    column = 0
    for heading, text in zip(headings, above, strict=True):
        draw.multiline_text((left_width + column * (width + MARGIN), MARGIN), text, "black", font)
        column += heading.columns
    for column, text in enumerate(top):
        draw.multiline_text((left_width + column * (width + MARGIN), above_height + MARGIN), text, "black", font)
    for row, text in enumerate(left):
        y = top_height + row * (height + MARGIN)
        draw.multiline_text((MARGIN, y), text, "black", font)
        for column, image in enumerate(cells[row]):
            if image is not None:
                sheet.paste(_scaled(image, width, height), (left_width + column * (width + MARGIN), y))
    sheet.thumbnail((MAX_SHEET, MAX_SHEET))  # with labels and margins it may be larger
    return sheet


def enlargement(width: int, height: int) -> int:
    """How many times an image of this size is enlarged."""
    return max(1, math.ceil(MIN_CELL / max(width, height)))


def pages(width: int, height: int, rows: int, columns: Sequence[int]) -> list[tuple[Span, Span]]:
    """The rows and columns of each page, for images of width x height shown at their size or larger.

    `columns`: how many columns belong together, such as the seeds of a prompt; only more than a page are split.
    """
    scale = enlargement(width, height)
    most_rows = max(1, MAX_PAGE // (height * scale + MARGIN))
    most_columns = max(1, MAX_PAGE // (width * scale + MARGIN))
    spans: list[Span] = []
    end = 0
    for count in columns:
        start, end = end, end + count
        if spans and end - spans[-1].start <= most_columns:
            spans[-1] = Span(spans[-1].start, end)
        else:
            spans += _split(start, end, most_columns)
    return [(row, column) for row in _split(0, rows, most_rows) for column in spans]


def _split(start: int, end: int, most: int) -> list[Span]:
    """Spans of at most this many, about equal."""
    count = math.ceil((end - start) / most)
    edges = [start + round(index * (end - start) / count) for index in range(count + 1)]
    return [Span(first, last) for first, last in pairwise(edges)]


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image as large as fits into width x height; enlarged pixels stay squares."""
    method = Image.Resampling.NEAREST if image.width < width else Image.Resampling.LANCZOS
    return ImageOps.contain(image, (width, height), method)


def _wrapped(label: str, font: Font, width: int) -> str:
    """Breaks a label's lines at about `width` pixels, by the mean width of a letter."""
    letters = max(8, int(10 * width / font.getlength("abcdefghij")))
    return "\n".join(piece for line in label.splitlines() for piece in wrap(line, letters))


def _size(text: str, font: Font) -> tuple[int, int]:
    _, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    return int(right) + 1, int(bottom) + 1

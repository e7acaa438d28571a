"""A labelled grid of pictures: rows and columns with their names."""

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

MARGIN = 8
MAX_SIDE = 8192
"""Pictures are made smaller where the grid would be larger than this many pixels."""


def labelled_grid(
    cells: Sequence[Sequence[Image.Image | None]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> Image.Image:
    """One picture of all `cells[row][column]`; a cell may be empty. Labels are wrapped to what they stand beside."""
    pictures = [cell for row in cells for cell in row if cell is not None]
    width, height = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    shrink = min(1.0, MAX_SIDE / (width * len(column_labels)), MAX_SIDE / (height * len(row_labels)))
    width, height = max(1, int(width * shrink)), max(1, int(height * shrink))

    font = ImageFont.load_default(size=max(11, min(20, width // 14)))
    left = _wrapped(row_labels, font, max(120, min(width, 260)))
    top = _wrapped(column_labels, font, max(width, 60))
    left_width = max(_size(text, font)[0] for text in left) + 2 * MARGIN
    top_height = max(_size(text, font)[1] for text in top) + 2 * MARGIN

    sheet = Image.new(
        "RGB",
        (left_width + (width + MARGIN) * len(column_labels), top_height + (height + MARGIN) * len(row_labels)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(top):
        draw.multiline_text((left_width + column * (width + MARGIN), MARGIN), text, "black", font)
    for row, text in enumerate(left):
        y = top_height + row * (height + MARGIN)
        draw.multiline_text((MARGIN, y + MARGIN), text, "black", font)
        for column, picture in enumerate(cells[row]):
            if picture is not None:
                sheet.paste(_scaled(picture, width, height), (left_width + column * (width + MARGIN), y))
    return sheet


def _scaled(picture: Image.Image, width: int, height: int) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail((width, height), Image.Resampling.LANCZOS)
    return picture


def _wrapped(labels: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Breaks each label into lines of at most `width` pixels, judged by the mean width of a letter."""
    letters = max(4, int(width / font.getlength("abcdefghij") * 10))
    return ["\n".join(wrap(label, letters)) for label in labels]


def _size(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[int, int]:
    _, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    return int(right) + 1, int(bottom) + 1

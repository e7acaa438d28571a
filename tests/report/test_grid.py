"""The labelled grid: every image in its cell, every label beside it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm.report.grid import MARGIN, MAX_SHEET, MIN_CELL, labelled_grid

COLORS = ["red", "lime", "blue", "yellow", "magenta", "cyan"]


def cells_of(rows: int, columns: int, size: tuple[int, int]) -> list[list[Image.Image | None]]:
    """Cells of one colour each."""
    return [
        [Image.new("RGB", size, COLORS[(row * columns + column) % len(COLORS)]) for column in range(columns)]
        for row in range(rows)
    ]


def box(sheet: Image.Image, color: str) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the pixels of this colour."""
    wanted = np.array(Image.new("RGB", (1, 1), color))[0, 0]
    rows, columns = np.nonzero((np.asarray(sheet) == wanted).all(axis=-1))
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None


def test_cells_are_placed_in_rows_and_columns_at_their_size() -> None:
    sheet = labelled_grid(cells_of(2, 3, (200, 180)), ["one", "two"], ["a", "b", "c"])
    boxes = [box(sheet, color) for color in COLORS]
    left, top = boxes[0][:2]  # type: ignore[index]
    assert boxes == [
        (
            left + column * (200 + MARGIN),
            top + row * (180 + MARGIN),
            left + column * (200 + MARGIN) + 200,
            top + row * (180 + MARGIN) + 180,
        )
        for row in range(2)
        for column in range(3)
    ]
    assert sheet.size == (left + 3 * (200 + MARGIN), top + 2 * (180 + MARGIN))


@pytest.mark.parametrize(("width", "height", "factor"), [(190, 170, 1), (32, 32, MIN_CELL // 32)])
def test_images_are_pasted_as_they_are_and_small_ones_enlarged_pixel_by_pixel(
    width: int, height: int, factor: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    sheet = labelled_grid([[Image.fromarray(noise)]], ["row"], ["column"])
    right, bottom = sheet.width - MARGIN, sheet.height - MARGIN
    cell = np.asarray(sheet.crop((right - factor * width, bottom - factor * height, right, bottom)))
    assert np.array_equal(cell, noise.repeat(factor, axis=0).repeat(factor, axis=1))


def test_an_empty_cell_stays_white() -> None:
    cells = cells_of(2, 2, (200, 200))
    cells[1][0] = None
    sheet = labelled_grid(cells, ["one", "two"], ["a", "b"])
    left, top, right, bottom = box(sheet, COLORS[0])  # type: ignore[misc]
    below = sheet.crop((left, top + 200 + MARGIN, right, bottom + 200 + MARGIN))
    assert below.getcolors() == [(200 * 200, (255, 255, 255))]
    assert box(sheet, COLORS[2]) is None
    assert box(sheet, COLORS[3]) is not None


def dark(sheet: Image.Image, area: tuple[int, int, int, int]) -> bool:
    """Whether something is written in this area."""
    return int(np.asarray(sheet.crop(area).convert("L")).min()) < 100


def test_every_row_and_column_has_its_label_beside_it() -> None:
    sheet = labelled_grid(cells_of(2, 2, (200, 200)), ["step 200", "step 400"], ["seed 1", "seed 2"])
    for row in range(2):
        left, top, _, bottom = box(sheet, COLORS[2 * row])  # type: ignore[misc]
        assert dark(sheet, (0, top, left, bottom))
    for column in range(2):
        left, top, right, _ = box(sheet, COLORS[column])  # type: ignore[misc]
        assert dark(sheet, (left, 0, right, top))


def test_other_labels_look_different() -> None:
    cells = cells_of(1, 1, (200, 200))
    assert labelled_grid(cells, ["step 200"], ["a"]) != labelled_grid(cells, ["step 400"], ["a"])
    assert labelled_grid(cells, ["step"], ["seed 1"]) != labelled_grid(cells, ["step"], ["seed 2"])


def test_a_long_label_is_wrapped_and_not_cut() -> None:
    """The heading grows with the prompt, and nothing of it reaches into the next column."""
    words = "a photo of sks can on the beach at sunset with a hat and a dog beside it " * 2
    short = labelled_grid(cells_of(1, 2, (200, 200)), ["row"], ["a", "b"])
    long = labelled_grid(cells_of(1, 2, (200, 200)), ["row"], [words, ""])
    assert long.width == short.width
    assert long.height > short.height + 60
    left, top, _, _ = box(long, COLORS[1])  # type: ignore[misc]
    assert not dark(long, (left, 0, long.width, top))


def test_labels_in_other_scripts_are_no_error() -> None:
    sheet = labelled_grid(cells_of(1, 1, (64, 64)), ["Bär — 熊 🐻"], ["ein Bär\n熊"])
    assert box(sheet, COLORS[0]) is not None


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(8, 300), st.integers(8, 300))
def test_every_cell_is_visible_for_any_shape(rows: int, columns: int, width: int, height: int) -> None:
    cells: list[list[Image.Image | None]] = [[None] * columns for _ in range(rows)]
    cells[-1][-1] = Image.new("RGB", (width, height), "red")
    sheet = labelled_grid(cells, ["row"] * rows, ["column"] * columns)
    left, top, right, bottom = box(sheet, "red")  # type: ignore[misc]
    assert (right, bottom) == (sheet.width - MARGIN, sheet.height - MARGIN)
    assert (right - left) * height == pytest.approx((bottom - top) * width, rel=0.1)
    assert max(right - left, bottom - top) >= min(MIN_CELL, max(width, height))


@pytest.mark.parametrize(("rows", "columns"), [(1, 60), (60, 1)])
def test_a_sheet_is_never_larger_than_its_limit(rows: int, columns: int) -> None:
    cells: list[list[Image.Image | None]] = [[Image.new("RGB", (512, 512), "red")] * columns] * rows
    sheet = labelled_grid(cells, [f"row {row}" for row in range(rows)], [f"seed {column}" for column in range(columns)])
    assert max(sheet.size) <= MAX_SHEET

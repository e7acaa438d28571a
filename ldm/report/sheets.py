"""The comparison as image sheets: `grid.png`, or pages `grid-1.png`, `grid-2.png`, ... where it is large."""

import contextlib
from itertools import groupby
from pathlib import Path

from PIL import Image

from ldm.data.images import read_image, save_png
from ldm.report.comparison import ComparisonData, Row, shown_prompt
from ldm.report.grid import Heading, Span, labelled_grid, pages

INIT_IMAGE = "initial image"
"""The heading of the column with the image that img2img started from, or of the row with one for each column."""


def write_sheets(directory: Path, comparison: ComparisonData) -> list[str]:
    """Writes the grid, each page with all its labels, and removes an older one; returns the files' names."""
    names = sheet_names(comparison)
    for name, (rows, columns) in zip(names, _parts(comparison), strict=True):
        save_png(directory / name, _page(directory, comparison, rows, columns))
    for old in [directory / "grid.png", *directory.glob("grid-*.png")]:
        if old.name not in names:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
    return names


def sheet_names(comparison: ComparisonData) -> list[str]:
    """The files' names."""
    count = len(_parts(comparison))
    return [f"grid-{number}.png" for number in range(1, count + 1)] if count > 1 else ["grid.png"]


def _parts(comparison: ComparisonData) -> list[tuple[Span, Span]]:
    """The rows and columns of each page; pages without any image, as of an interrupted call, are left out."""
    prompts = [column.prompt_index for column in comparison.columns]
    counts = [len(list(columns)) for _, columns in groupby(prompts)]
    width, height = comparison.sampling["width"], comparison.sampling["height"]
    return [
        (rows, columns)
        for rows, columns in pages(width, height, len(comparison.rows), counts)
        if any(cell for row in comparison.rows[rows.places] for cell in row.cells[columns.places])
    ]


def _page(directory: Path, comparison: ComparisonData, row_span: Span, column_span: Span) -> Image.Image:
    rows, columns = comparison.rows[row_span.places], comparison.columns[column_span.places]
    cells = [
        [read_image(directory / cell.file) if cell else None for cell in row.cells[column_span.places]] for row in rows
    ]
    column_labels = [column.label for column in columns]
    headings = [
        Heading(shown_prompt(comparison, index), len(list(group)))
        for index, group in groupby(columns, key=lambda column: column.prompt_index)
    ]
    row_labels = [_label(comparison, row) for row in rows]
    if any(column.init_image for column in columns):
        cells = [[read_image(directory / column.init_image) for column in columns], *cells]
        row_labels = [INIT_IMAGE, *row_labels]
    if comparison.init_image:
        first = read_image(directory / comparison.init_image)
        cells = [[None if number else first, *line] for number, line in enumerate(cells)]
        column_labels, headings = ["", *column_labels], [Heading(INIT_IMAGE, 1), *headings]
    return labelled_grid(cells, row_labels, column_labels, headings)


def _label(comparison: ComparisonData, row: Row) -> str:
    """The row's own, and its subject's class where there are several."""
    subject = comparison.groups[row.group].subject
    several = len({group.subject for group in comparison.groups}) > 1
    return f"{row.label}\n({subject})" if several and subject and subject not in row.label else row.label

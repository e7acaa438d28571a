"""The comparison as images to look at: `grid.png`, or pages `grid-1.png`, `grid-2.png`, ... where it is large."""

import contextlib
from itertools import groupby
from pathlib import Path

from PIL import Image

from ldm.data.images import read_image, save_png
from ldm.report.comparison import Comparison, Row
from ldm.report.grid import Heading, Span, labelled_grid, pages


def write_sheets(directory: Path, comparison: Comparison) -> list[str]:
    """Writes the grid, each page with all its labels, in place of an older one; returns the files' names.

    A page without any image, as of a call that was interrupted, is left out.
    """
    prompts = [column.prompt_index for column in comparison.columns]
    counts = [len(list(columns)) for _, columns in groupby(prompts)]
    parts = [
        (rows, columns)
        for rows, columns in pages(
            comparison.sampling["width"], comparison.sampling["height"], len(comparison.rows), counts
        )
        if any(cell for row in comparison.rows[rows.places] for cell in row.cells[columns.places])
    ]
    names = [f"grid-{number}.png" for number in range(1, len(parts) + 1)] if len(parts) > 1 else ["grid.png"]
    for name, (rows, columns) in zip(names, parts, strict=True):
        save_png(directory / name, _page(directory, comparison, rows, columns))
    for old in [directory / "grid.png", *directory.glob("grid-*.png")]:
        if old.name not in names:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
    return names


def _page(directory: Path, comparison: Comparison, row_span: Span, column_span: Span) -> Image.Image:
    rows, columns = comparison.rows[row_span.places], comparison.columns[column_span.places]
    headings = [
        Heading(_heading(comparison, index), len(list(group)))
        for index, group in groupby(columns, key=lambda column: column.prompt_index)
    ]
    return labelled_grid(
        [
            [read_image(directory / cell.file) if cell else None for cell in row.cells[column_span.places]]
            for row in rows
        ],
        [_label(comparison, row) for row in rows],
        [f"seed {column.seed}" for column in columns],
        headings,
    )


def _heading(comparison: Comparison, prompt_index: int) -> str:
    """A prompt as all rows drew it, or where they differ, as it was asked for."""
    drawn = {
        cell.prompt
        for row in comparison.rows
        for column, cell in zip(comparison.columns, row.cells, strict=True)
        if cell and column.prompt_index == prompt_index
    }
    asked = next(column.prompt for column in comparison.columns if column.prompt_index == prompt_index)
    return drawn.pop() if len(drawn) == 1 else asked


def _label(comparison: Comparison, row: Row) -> str:
    """The row's own, and its subject's class where there are several."""
    subject = comparison.groups[row.group].subject
    several = len({group.subject for group in comparison.groups}) > 1
    return f"{row.label}\n({subject})" if several and subject and subject not in row.label else row.label

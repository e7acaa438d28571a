"""Writes the files of a comparison; reads it back if a resumed call has nothing new to write."""

from collections.abc import Callable
from pathlib import Path

from ldm.errors import UserError
from ldm.report.comparison import Cell, ComparisonData
from ldm.report.page import PAGE_NAME, write_page
from ldm.report.sheets import sheet_names, write_sheets
from ldm.report.table import CSV_NAME, JSON_NAME, read_comparison, write_csv, write_json


def write_results(directory: Path, comparison: ComparisonData, *, of_directory: bool) -> list[str]:
    """Writes the grid and `pictures.csv`, and for a directory of checkpoints `comparison.json` and the page.

    Returns the names of the files to look at: the grid, and the page if there is one.
    """
    sheets = write_sheets(directory, comparison)
    written = sheets if len(sheets) == 1 else [f"{sheets[0]} to {sheets[-1]}"]
    write_csv(directory, comparison)
    if of_directory:
        write_json(directory, comparison)
        written = [*written, write_page(directory, comparison).name]
    return written


def current_results(
    directory: Path, digest: str, is_there: Callable[[Path, Cell | None], bool]
) -> ComparisonData | None:
    """The comparison in a directory if it is finished, has this `digest`, and all its files are there; else None.

    `is_there(directory, cell)`: whether an image is there and valid.
    """
    try:
        comparison = read_comparison(directory / JSON_NAME)
    except UserError:
        return None
    if not digest or comparison.digest != digest:
        return None
    files = [
        PAGE_NAME,
        CSV_NAME,
        *sheet_names(comparison),
        *(photo for one in comparison.groups for photo in one.photos),
    ]
    whole = all((directory / file).is_file() for file in filter(None, [*files, comparison.init_image]))
    cells = [cell for row in comparison.rows for cell in row.cells if cell]
    return comparison if whole and all(is_there(directory, cell) for cell in cells) else None

"""From the pictures that are there to the table of a comparison, and from the table to files."""

from dataclasses import asdict
from pathlib import Path

from ldm.commands.drawing.comparison import Cell, Comparison, Group, Row, Run
from ldm.commands.drawing.page import write_page
from ldm.commands.drawing.planning import Call
from ldm.commands.drawing.rows import PlannedRow
from ldm.commands.drawing.sheets import write_sheets
from ldm.commands.drawing.table import write_csv, write_json
from ldm.commands.drawing.validity import is_valid
from ldm.commands.record import section


def comparison_of(call: Call) -> Comparison:
    """What is drawn so far; rows without any picture are left out."""
    rows = [
        Row(
            label=row.label,
            group=row.family,
            run=row.run,
            step=row.checkpoint.info.step,
            checkpoint=str(row.checkpoint.path),
            is_base=row.is_base,
            cells=_cells(row, call.directory),
        )
        for row in call.plan.rows
    ]
    runs = {row.run: row.checkpoint.info.options for row in call.plan.rows if row.run}
    return Comparison(
        title=(call.root or call.weights).resolve().name,
        command=str(call.record.get("command", "")),
        created=str(call.record.get("started", "")),
        columns=call.plan.columns,
        rows=[row for row in rows if any(row.cells)],
        groups=[
            Group(family.subject, [photo.copy for photo in photos])
            for family, photos in zip(call.plan.families, call.photos, strict=True)
        ],
        runs=[Run(name, options) for name, options in runs.items()],
        sampling={**asdict(call.job.sampling), "negative_prompt": call.job.negative_prompt},
        versions={name: str(version) for name, version in section(call.record, "versions").items()},
    )


def write_results(directory: Path, comparison: Comparison, *, is_sweep: bool) -> list[str]:
    """Writes the grid and the table, and of a sweep the page; returns the names of what to look at."""
    sheets = write_sheets(directory, comparison)
    written = sheets if len(sheets) == 1 else [f"{sheets[0]} to {sheets[-1]}"]
    write_csv(directory, comparison)
    if is_sweep:
        write_json(directory, comparison)
        written = [*written, write_page(directory, comparison).name]
    return written


def _cells(row: PlannedRow, directory: Path) -> list[Cell | None]:
    return [
        Cell(picture.file, picture.prompt) if picture and is_valid(directory / picture.file, picture.key) else None
        for picture in row.pictures
    ]

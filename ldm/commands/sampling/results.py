"""From the images that are there to the table of a comparison, and from the table to files."""

from dataclasses import asdict
from pathlib import Path

from ldm.commands.record import section
from ldm.commands.sampling.planning import Call
from ldm.commands.sampling.rows import PlannedRow
from ldm.commands.sampling.validity import is_valid
from ldm.report.comparison import Cell, Comparison, Group, Row, Run
from ldm.report.page import write_page
from ldm.report.sheets import write_sheets
from ldm.report.table import write_csv, write_json


def comparison_of(call: Call) -> Comparison:
    """What is drawn so far; rows without any image are left out."""
    rows = [
        Row(
            label=row.label,
            group=row.group,
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
            Group(group.subject, [photo.copy for photo in photos])
            for group, photos in zip(call.plan.groups, call.photos, strict=True)
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
        Cell(image.file, image.prompt) if image and is_valid(directory / image.file, image.key) else None
        for image in row.images
    ]

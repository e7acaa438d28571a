"""The comparison as files for other programs: a line per picture as CSV, everything as JSON."""

import csv
import dataclasses
import io
import json
import types
import typing
from pathlib import Path
from typing import Any

from ldm.commands.drawing.comparison import Comparison
from ldm.errors import UserError
from ldm.files import write_text

CSV_NAME, JSON_NAME = "pictures.csv", "comparison.json"

SAMPLING = {
    "sampler": "sampler",
    "steps": "num_steps",
    "scale": "guidance_scale",
    "eta": "eta",
    "width": "width",
    "height": "height",
}
"""Columns of the CSV file, and what the sampling calls them."""


def write_csv(directory: Path, comparison: Comparison) -> None:
    """Writes `pictures.csv`: every picture with all it was drawn from, and its scores if there are any."""
    scores = [score.name for score in comparison.scores]
    lines = []
    for row in comparison.rows:
        for column, cell in zip(comparison.columns, row.cells, strict=True):
            if cell is None:
                continue
            lines.append(
                {
                    "file": cell.file,
                    "run": row.run,
                    "step": row.step,
                    "label": row.label,
                    "checkpoint": row.checkpoint,
                    "prompt": cell.prompt,
                    "prompt_index": column.prompt_index,
                    "seed": column.seed,
                    "negative_prompt": comparison.sampling["negative_prompt"],
                    **{name: comparison.sampling[key] for name, key in SAMPLING.items()},
                    **({"scored_by": comparison.scored_by} if comparison.scored_by else {}),
                    **{f"score_{name}": cell.scores.get(name, "") for name in scores},
                }
            )
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    write_text(directory / CSV_NAME, text.getvalue())


def write_json(directory: Path, comparison: Comparison) -> None:
    """Writes `comparison.json`, which `read_comparison` reads."""
    text = json.dumps(dataclasses.asdict(comparison), indent=1, ensure_ascii=False)
    write_text(directory / JSON_NAME, text + "\n")


def read_comparison(path: Path) -> Comparison:
    """Reads a `comparison.json`. Raises `UserError` for a file that is none."""
    try:
        comparison: Comparison = _typed(Comparison, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; txt2img.py writes it where it compares a directory") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not the table of a comparison: {error}") from error
    return comparison


def _typed(kind: Any, value: Any) -> Any:
    """A value of JSON as the dataclass, list or plain value that it is in a `Comparison`."""
    if typing.get_origin(kind) is types.UnionType:  # only "or None"
        return None if value is None else _typed(typing.get_args(kind)[0], value)
    if typing.get_origin(kind) is list:
        return [_typed(typing.get_args(kind)[0], item) for item in value]
    if typing.get_origin(kind) is dict:
        return {key: _typed(typing.get_args(kind)[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast(type, kind)(**{key: _typed(hints[key], item) for key, item in value.items()})
    return value

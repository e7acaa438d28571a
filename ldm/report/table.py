"""The comparison as files for other programs: `pictures.csv` with a line per image, `comparison.json` with all."""

import csv
import dataclasses
import io
import json
import re
import reprlib
import types
import typing
from pathlib import Path
from typing import Any

from ldm.errors import UserError
from ldm.files import write_text
from ldm.report.comparison import ComparisonData
from ldm.sampling_options import SAMPLING_OPTIONS
from ldm.terminal import visible
from ldm.user_files import read_text

CSV_NAME, JSON_NAME = "pictures.csv", "comparison.json"

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
"""The beginning of a text that spreadsheets compute, or fetch from the network, instead of showing it."""
MOST_BYTES = 256_000_000
SURROGATE = re.compile("[\ud800-\udfff]")


def write_csv(directory: Path, comparison: ComparisonData) -> None:
    """Writes `pictures.csv`: a line per image with its prompt, seed and sampling, and its scores if there are any."""
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
                    **({"init_image": column.init_image} if column.init_image else {}),
                    **({} if column.image_scale is None else {"image_scale": column.image_scale}),
                    "negative_prompt": comparison.sampling["negative_prompt"],
                    **{option.column: comparison.sampling.get(option.field, "") for option in SAMPLING_OPTIONS},
                    "width": column.width or comparison.sampling["width"],
                    "height": column.height or comparison.sampling["height"],
                    **({"scored_by": comparison.scored_by} if comparison.scored_by else {}),
                    **{f"score_{name}": cell.scores.get(name, "") for name in scores},
                }
            )
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: as_cell(value) for name, value in line.items()} for line in lines)
    write_text(directory / CSV_NAME, text.getvalue())


def as_cell(value: object) -> object:
    """A value as a spreadsheet shows it: text is no formula and breaks no line; numbers stay numbers.

    Text that would be a formula gets an apostrophe before it, as OWASP recommends ("CSV injection").
    """
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if FORMULA.match(value) else visible(value)


def write_json(directory: Path, comparison: ComparisonData) -> None:
    """Writes `comparison.json`, which `read_comparison` reads."""
    text = json.dumps(dataclasses.asdict(comparison), indent=1, ensure_ascii=False)
    text = SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)  # names that aren't UTF-8
    write_text(directory / JSON_NAME, text + "\n")


def read_comparison(path: Path) -> ComparisonData:
    """Reads a `comparison.json`. Raises `UserError` if it isn't one."""
    try:
        comparison: ComparisonData = _typed(ComparisonData, json.loads(read_text(path, MOST_BYTES)))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; txt2img.py writes it where it compares a directory") from None
    except RecursionError:
        raise UserError(f"{path} is not the table of a comparison: its values are nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not the table of a comparison: {str(error)[:200]}") from error
    return comparison


def _typed(kind: Any, value: Any) -> Any:
    """A value of JSON as the dataclass, list or plain value of its type in `ComparisonData`."""
    if typing.get_origin(kind) is types.UnionType:  # only "or None"
        return None if value is None else _typed(typing.get_args(kind)[0], value)
    if typing.get_origin(kind) is list:
        return [_typed(typing.get_args(kind)[0], item) for item in _of_type(list, value)]
    if typing.get_origin(kind) is dict:
        return {key: _typed(typing.get_args(kind)[1], item) for key, item in _of_type(dict, value).items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        given = _of_type(dict, value).items()
        return typing.cast(type, kind)(**{key: _typed(hints[key], item) for key, item in given})
    if kind is float and type(value) is int:
        return float(value)
    return value if kind is Any else _of_type(kind, value)


def _of_type(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{reprlib.repr(value)} should be of the type {kind.__name__}")
    return value

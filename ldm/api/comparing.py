"""Comparing checkpoints on the same noise, scoring them, and the recommendation."""

import base64
import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.api.calls import command_call
from ldm.api.flags import as_path, parsed_keywords
from ldm.api.samples import png_bytes
from ldm.commands.options.sampling import evaluate_parser, txt2img_parser
from ldm.commands.resuming import RECORD
from ldm.commands.sampling import evaluate, txt2img
from ldm.commands.sampling.resume import recorded_command
from ldm.config import read_yaml
from ldm.errors import UserError
from ldm.files import natural_key
from ldm.report.comparison import ComparisonData, Row
from ldm.report.summary import summary
from ldm.report.table import JSON_NAME, read_comparison

SHOWN_PIXELS = 1600
"""The longer side of a grid in a notebook; the files keep their size."""


@dataclass(frozen=True)
class Verdict:
    """Which checkpoint of one subject to use, and why."""

    subject: str
    """The class name."""
    checkpoint: Path | None
    """None where nothing can be recommended."""
    verdict: str
    reasons: list[str]


@dataclass(frozen=True)
class Comparison(os.PathLike[str]):
    """The output directory of a comparison: rows of checkpoints, columns of prompts and seeds, scores.

    `ldm.Comparison("outputs/txt2img-3")` opens an existing one. It can be used as a path.
    """

    directory: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", as_path("directory", self.directory))
        _ = self.table  # read at once, so that a directory without a comparison is refused here

    def __fspath__(self) -> str:
        return str(self.directory)

    @cached_property
    def table(self) -> ComparisonData:
        """Everything: `columns` (prompt, seed), `rows`, `groups`, `sampling` and more.

        A row has `cells` with a file and scores each, and `scores` with a mean and a 95 % interval each.
        """
        return read_comparison(self.directory / JSON_NAME)

    @property
    def rows(self) -> list[Row]:
        """A row for each checkpoint: label, step, checkpoint, whether it is the base model, cells, scores."""
        return self.table.rows

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The mean of each score, a flat dictionary for each row: `pandas.DataFrame(comparison.scores)` takes it."""
        return [
            {"label": row.label, "step": row.step, "checkpoint": row.checkpoint, "is_base": row.is_base}
            | {name: interval.mean for name, interval in row.scores.items()}
            for row in self.rows
        ]

    @property
    def verdicts(self) -> list[Verdict]:
        """The recommendation for each subject; empty where nothing was scored."""
        return [
            Verdict(
                subject=group.subject,
                checkpoint=None if one.row is None else Path(self.rows[one.row].checkpoint),
                verdict=one.verdict,
                reasons=one.reasons,
            )
            for group in self.table.groups
            if (one := group.recommendation)
        ]

    @property
    def recommended(self) -> Path | None:
        """The recommended checkpoint of the first subject; None where nothing was scored or can be recommended."""
        return next((one.checkpoint for one in self.verdicts), None)

    @property
    def page(self) -> Path:
        """The page to browse."""
        return self.directory / "index.html"

    def images(self, row: int) -> list[Image.Image | None]:
        """The images of a row, one per column; None where there is none."""
        return [None if cell is None else _read(self.directory / cell.file) for cell in self.rows[row].cells]

    def show(self) -> Image.Image:
        """The grid, or the first sheet of a large one, in at most 1600 pixels a side."""
        sheets = sorted([*self.directory.glob("grid.png"), *self.directory.glob("grid-*.png")], key=natural_key)
        if not sheets:
            raise UserError(f"{self.directory} holds no grid")
        grid = _read(sheets[0])
        grid.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
        return grid

    def __str__(self) -> str:
        return str(summary(self.table))

    def _repr_html_(self) -> str:
        grid = base64.b64encode(png_bytes(self.show())).decode()
        return f'<pre>{html.escape(str(self))}</pre><img src="data:image/png;base64,{grid}">'


def compare(ckpt_path: str | os.PathLike[str] = "ckpts", *, score: bool = False, **flags: Any) -> Comparison:
    """Samples with every checkpoint below a directory, the same noise for each, as txt2img.py does with these flags.

    `ckpt_path`: the directory, or a `Run`. `score=True` scores the checkpoints and recommends one. `flags`: those of
    txt2img.py, such as `prompts=["a photo of sks {class}"]`, `variations=2`, `seed=0`, `steps=20`,
    `instance_img_dir="data/bottle"`; `python txt2img.py --help` explains each.
    """
    if flags.get("resume_dir") is not None:
        return _sampled("txt2img", {"score": score, **flags})
    directory = as_path("ckpt_path", ckpt_path)
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory: compare takes one with checkpoints below it")
    return _sampled("txt2img", {"ckpt_path": directory, "score": score, **flags})


def score(path: str | os.PathLike[str] = "ckpts", **flags: Any) -> Comparison:
    """Scores checkpoints and recommends one, as evaluate.py does with these flags.

    `path`: a directory of checkpoints or a `Run`, for which the images are sampled first; or an existing comparison,
    which is scored and completed, unless it is img2img.py's. `flags`: those of evaluate.py, such as
    `protocol="dreambooth"`, `variations=4`, `instance_img_dir="data/bottle"`; see `python evaluate.py --help`.
    """
    directory = as_path("path", path)
    if not (directory / JSON_NAME).is_file():
        return _sampled("evaluate", {"path": path, **flags}, {"path": "ckpt_path"})
    options = read_yaml(directory / RECORD).get("options")
    command = recorded_command(options) if isinstance(options, dict) else "txt2img"
    if command == "img2img":
        raise UserError(
            f"{directory} is img2img.py's, whose images start from another image and are not scored: score takes a "
            "comparison of compare, txt2img.py or evaluate.py, a run, or a directory of checkpoints"
        )
    if command == "evaluate":
        return _sampled("evaluate", {"resume_dir": directory, **flags})
    return _sampled("txt2img", {"resume_dir": directory, "score": True, **flags})


def _sampled(command: str, given: dict[str, Any], aliases: Mapping[str, str] | None = None) -> Comparison:
    """Calls txt2img.py or evaluate.py with these keyword arguments; `aliases` as in `parsed_keywords`."""
    parser = {"txt2img": txt2img_parser, "evaluate": evaluate_parser}[command]()
    run = {"txt2img": txt2img, "evaluate": evaluate}[command]
    with parsed_keywords(parser, given, aliases) as (options, words), command_call(f"{command}.py", words):
        return Comparison(run(options))


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")

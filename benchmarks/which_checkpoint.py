"""Does `evaluate.py` recommend a step between too few and far too many? On unusual subjects of the tiny model.

    python benchmarks/which_checkpoint.py --sheets docs/images

Trains on each subject fast and far too long, without prior preservation, until the model memorises it, with closer
checkpoints at the beginning:

    python dreambooth.py -c duck -i PHOTOS -l 0 --learning-rate 4e-4 --iterations 20 -s 4 --no-previews
    python dreambooth.py -r ckpts/duck-1 --iterations 600 -s 150

and compares all its checkpoints with `python evaluate.py`. The first should not have learned the subject, the last
should copy photos, and the recommended one should do neither.
"""

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tiny_subjects import SUBJECTS, parse_subject, photographs_of  # noqa: E402
from benchmarks.tools.commands import timed_run, weights_flags  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.subject_report import Subject  # noqa: E402
from ldm.data.images import read_image, save_png  # noqa: E402
from ldm.evaluation.explanation import NOTICED  # noqa: E402
from ldm.evaluation.recommendation import LEARNED  # noqa: E402
from ldm.files import slug  # noqa: E402
from ldm.report.comparison import ComparisonData, Row  # noqa: E402
from ldm.report.grid import labelled_grid  # noqa: E402
from ldm.report.table import read_comparison  # noqa: E402

SHOWN = ("subject", "prompt", "diversity", "copy", "leakage")
SHEET_ROWS = 7
SHORT, SHORT_STEP, LONG_STEP = 20, 4, 150
"""Up to the first update a checkpoint every so many, then every so many."""


@dataclass(frozen=True)
class Study:
    """The results of one subject."""

    subject: Subject
    comparison: ComparisonData
    directory: Path

    @property
    def chosen(self) -> int | None:
        """The recommended row."""
        recommendation = self.comparison.groups[0].recommendation
        return recommendation.row if recommendation else None

    def share(self, row: Row) -> float:
        """Where the subject score lies between the base model's (0) and the photos' (1)."""
        reference = self.comparison.groups[0].references["subject"]
        if reference.base is None or reference.ceiling is None:
            return math.nan
        return (row.scores["subject"].mean - reference.base) / (reference.ceiling - reference.base)


def study(subject: Subject, options: argparse.Namespace, work: Path) -> Study:
    """Trains on one subject far too long and compares the checkpoints; results that are in `work` are used."""
    photos = photographs_of(subject, work)
    ckpts, output = work / f"{subject.name}-too-long", work / f"{subject.name}-evaluated"
    if not list(output.glob("*/comparison.json")):
        shutil.rmtree(ckpts, ignore_errors=True)
        command = ["dreambooth.py", "-c", subject.words, "-i", photos, "-l", 0]
        command += [
            "--learning-rate",
            options.learning_rate,
            "--iterations",
            SHORT,
            "-s",
            SHORT_STEP,
            "--no-previews",
            "-o",
            ckpts,
        ]
        timed_run(*command, *weights_flags(options.ckpt_path))
        run = ckpts / f"{slug(subject.words)}-1"
        timed_run("dreambooth.py", "-r", run, "--iterations", options.iterations, "-s", LONG_STEP)
        timed_run("evaluate.py", "--ckpt-path", ckpts, "-v", options.variations, "-o", output)
    directory = next(output.glob("*/comparison.json")).parent
    return Study(subject, read_comparison(directory / "comparison.json"), directory)


def report(one: Study) -> str:
    """A line per checkpoint, and the recommendation of evaluate.py."""
    lines = []
    for index, row in enumerate(one.comparison.rows):
        name = f"**{row.label}**" if index == one.chosen else row.label
        lines.append([name, *(f"{row.scores[score].mean:.2f}" for score in SHOWN)])
    recommendation = one.comparison.groups[0].recommendation
    verdict = recommendation.verdict if recommendation else "nothing was recommended"
    return f"{table([one.subject.words, *SHOWN], lines)}\n{verdict}\n"


def targets_of(one: Study) -> list[Target]:
    """The recommended step lies between one that has not learned the subject and one that copies photos."""
    tuned = [row for row in one.comparison.rows if not row.is_base]
    chosen = one.comparison.rows[one.chosen] if one.chosen is not None else None
    share, copies = (one.share(chosen), chosen.scores["copy"].mean) if chosen else (math.nan, math.nan)
    name, learned, noticed = one.subject.words, 100 * LEARNED, 100 * NOTICED
    return [
        Target(f"{name}: of the subject is in the first checkpoint", 100 * one.share(tuned[0]), learned, at_most=True),
        Target(f"{name}: in the recommended one", 100 * share, learned),
        Target(f"{name}: copies by the recommended one", 100 * copies, noticed, at_most=True),
        Target(f"{name}: copies by the last", 100 * tuned[-1].scores["copy"].mean, noticed),
    ]


def sheet(one: Study) -> Image.Image:
    """Some rows from the base model to the last, the recommended one among them; the first seed of each prompt."""
    rows = one.comparison.rows
    places = {round(i * (len(rows) - 1) / (SHEET_ROWS - 1)) for i in range(SHEET_ROWS)} | {one.chosen or 0}
    columns: dict[int, int] = {}
    for place, column in enumerate(one.comparison.columns):
        columns.setdefault(column.prompt_index, place)
    labels = {place: rows[place].label + ("\nrecommended" if place == one.chosen else "") for place in sorted(places)}
    cells = [
        [read_image(one.directory / cell.file) if (cell := rows[place].cells[i]) else None for i in columns.values()]
        for place in labels
    ]
    first = next(cell for row in rows for cell in row.cells if cell)
    prompts = [first.prompt if i == 0 else (rows[0].cells[i] or first).prompt for i in columns.values()]
    return labelled_grid(cells, [*labels.values()], prompts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, evaluates and prints."""
    parser = script_parser(__doc__)
    parser.add_argument("--ckpt-path", type=Path, help="the base model; default: the embedded tiny model")
    parser.add_argument("--subjects", type=parse_subject, nargs="+", default=SUBJECTS[:3], metavar="CLASS")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--variations", type=int, default=3, help="seeds per prompt")
    parser.add_argument("--work", type=Path, help="keep everything here, and continue from it")
    parser.add_argument("--sheets", type=Path, help="write a labelled grid of each subject into this directory")
    options = parser.parse_args(arguments)

    say(machine() + "\n")
    studies = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        for subject in options.subjects:
            studies.append(study(subject, options, work))
            say(report(studies[-1]))
            if options.sheets:
                save_png(options.sheets / f"which-{subject.name}.png", sheet(studies[-1]))
    write_json(options.json, {"machine": machine(), "comparisons": [one.comparison for one in studies]})
    return verdict([target for one in studies for target in targets_of(one)], options.strict)


if __name__ == "__main__":
    run_script(main)

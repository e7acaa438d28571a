"""The benchmark of the recommendation, on a comparison whose figures are known."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import benchmarks.which_checkpoint as benchmark
from benchmarks.tiny_subjects import BOTTLE
from benchmarks.which_checkpoint import Study, main, report, sheet, targets_of
from ldm.evaluation.results import SUBJECT, Interval, Recommendation, Reference
from ldm.report.comparison import Cell, Column, ComparisonData, Group, Row
from ldm.report.table import write_json

STEPS = {0: (0.1, 0.0), 50: (0.2, 0.0), 100: (0.8, 0.0), 150: (0.9, 0.5)}
"""Of each step: the subject score and the copies."""


def comparison(chosen: int | None) -> ComparisonData:
    rows = [
        Row(
            f"step {step}" if step else "base model",
            0,
            "run",
            step,
            "x",
            step == 0,
            [Cell(f"{step}.png", "a photo of sks bottle")],
            {
                name: Interval(value, value, value)
                for name, value in {**OTHERS, "subject": subject, "copy": copy}.items()
            },
        )
        for step, (subject, copy) in STEPS.items()
    ]
    group = Group("bottle", [], {"subject": Reference(0.9, 0.1)}, Recommendation(chosen, "So it is.", []))
    return ComparisonData("ckpts", "", "", [Column("a photo of sks {class}", 0, 42, SUBJECT)], rows, [group])


OTHERS = {"prompt": 0.7, "diversity": 0.2, "leakage": 0.1}


def study(directory: Path, chosen: int | None) -> Study:
    for step in STEPS:
        Image.new("RGB", (8, 8)).save(directory / f"{step}.png")
    return Study(BOTTLE, comparison(chosen), directory)


@pytest.mark.parametrize(
    ("chosen", "missed"),
    [(2, set()), (1, {"in the recommended one"}), (3, {"copies by the recommended one"}), (None, {"recommended one"})],
)
def test_the_recommended_step_should_lie_between(chosen: int | None, missed: set[str], tmp_path: Path) -> None:
    names = [target.name for target in targets_of(study(tmp_path, chosen)) if not target.met]
    assert bool(names) is bool(missed)
    assert all(any(word in name for name in names) for word in missed)


def test_a_first_step_that_knows_the_subject_was_not_too_short(tmp_path: Path) -> None:
    one = study(tmp_path, 2)
    rows = [row for row in one.comparison.rows if row.step != 50]
    later = dataclasses.replace(one, comparison=dataclasses.replace(one.comparison, rows=rows))
    assert next(target.met for target in targets_of(later)) is False


def test_the_report_marks_the_recommended_step_and_says_why(tmp_path: Path) -> None:
    output = report(study(tmp_path, 2))
    assert "| **step 100** | 0.80 | 0.70 | 0.20 | 0.00 | 0.10 |" in output
    assert "So it is." in output


def test_the_sheet_shows_the_recommended_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(benchmark, "labelled_grid", lambda *given: seen.extend(given) or Image.new("RGB", (1, 1)))
    sheet(study(tmp_path, 2))
    assert seen[1] == ["base model", "step 50", "step 100\nrecommended", "step 150"]
    assert seen[2] == ["a photo of sks bottle"]


def test_the_commands_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(*words: object) -> float:
        commands.append([str(word) for word in words])
        if words[0] == "evaluate.py":
            directory = Path(str(words[-1])) / "evaluate-1"
            directory.mkdir(parents=True)
            write_json(directory, study(directory, 2).comparison)
        return 1.0

    monkeypatch.setattr(benchmark, "timed_run", run)
    flags = ["--subjects", "bottle", "--work", str(tmp_path), "--strict", "--sheets", str(tmp_path / "sheets")]
    assert main(flags) == 0
    assert [command[0] for command in commands] == ["dreambooth.py", "dreambooth.py", "evaluate.py"]
    assert commands[0][1:5] == ["-c", "water bottle", "-i", str(benchmark.ROOT / "data" / "bottle")]
    assert (tmp_path / "sheets" / "which-bottle-15.png").exists()
    assert main(flags) == 0
    assert commands[1][2] == str(tmp_path / "bottle-15-too-long" / "water-bottle-1")
    assert len(commands) == 3

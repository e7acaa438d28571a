"""Targets and files of figures."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.tools.intervals import Count, mean
from benchmarks.tools.reporting import Target, verdict, write_json


def test_targets_are_met_from_either_side(capsys: pytest.CaptureFixture[str]) -> None:
    met = [Target("class", 90.0, 90.0), Target("time", 9.9, 10.0, "s", at_most=True)]
    missed = [
        Target("setting", 89.9, 95.0),
        Target("slow", 10.1, 10.0, "s", at_most=True),
        Target("colour", math.nan, 90.0),
    ]
    assert all(target.met for target in met) and not any(target.met for target in missed)
    assert verdict(met, strict=True) == 0
    assert verdict([*met, *missed], strict=False) == 0
    assert verdict([*met, *missed], strict=True) == 1
    output = capsys.readouterr().out
    assert "2 of 5 met" in output and "setting: 89.9 %, should be ≥ 95 %" in output
    assert "slow: 10.1 s, should be ≤ 10 s" in output


def test_figures_are_written_as_json(tmp_path: Path) -> None:
    write_json(None, {})
    write_json(tmp_path / "a" / "figures.json", {"right": Count(1, 2), "psnr": mean([1.0, 1.0])})
    assert json.loads((tmp_path / "a" / "figures.json").read_text()) == {
        "right": {"right": 1, "total": 2},
        "psnr": {"value": 1.0, "half": 0.0, "count": 2},
    }

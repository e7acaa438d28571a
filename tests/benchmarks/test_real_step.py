"""The benchmark of a real step's memory: the profile is chosen, and the peak measured."""

import json
from pathlib import Path

import pytest

import benchmarks.real_step as benchmark


@pytest.mark.slow
def test_a_step_is_measured_beside_its_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not benchmark.CLEAR.exists():
        pytest.skip("peaks of a process's memory are measured on Linux")
    figures = tmp_path / "figures.json"
    assert benchmark.main(["--size", "tiny", "--vram", "4", "--strict", "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert 0 < found["predicted"] < 0.1 and found["peak"] > 0
    assert "| --vram 4 | 0.01 |" in capsys.readouterr().out

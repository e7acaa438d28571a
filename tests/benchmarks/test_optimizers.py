"""The comparison of 8-bit optimizers: each contender that is installed has a row with its figures."""

import json
from pathlib import Path

import pytest

import benchmarks.optimizers as benchmark


@pytest.mark.slow
def test_each_contender_has_memory_time_and_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    flags = ["--device", "cpu", "--weights", "1", "--runs", "1", "--steps", "30", "--seeds", "1", "--only", "ours"]
    assert benchmark.main([*flags, "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())["contenders"]
    states = {name: kept["state"] for name, kept in found.items()}
    assert states == pytest.approx(
        {
            benchmark.EXACT: 8,
            "ours, float32": 2 + 8 / 256,
            "ours, bfloat16 and 8 more bits": 3 + 8 / 256,
            "ours, bfloat16": 2 + 8 / 256,
        },
        rel=1e-3,
    )
    assert all(len(kept["seconds"]) == len(kept["losses"]) == 1 and kept["seconds"][0] > 0 for kept in found.values())
    exact, *others = [kept["losses"][0] for kept in found.values()]
    assert others == pytest.approx([exact] * 3, rel=0.1)
    assert "| ours, bfloat16 | 4 | 2.03 |" in capsys.readouterr().out

"""The benchmark of a comparison's time: what it runs, what it compares, what it prints."""

import json
from pathlib import Path

import numpy as np
import pytest

import benchmarks.sweep as benchmark
from ldm.checkpoint.discovery import find_checkpoints
from ldm.checkpoint.loading import checkpoint_info
from ldm.errors import UserError
from tests.commands.calls import call
from tests.tiny import write_tiny_checkpoint


@pytest.fixture(autouse=True)
def tiny_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model in place of the embedded one."""
    monkeypatch.setattr(benchmark, "EMBEDDED", write_tiny_checkpoint(tmp_path / "base"))


@pytest.mark.slow
def test_both_ways_give_the_same_images_and_their_times_a_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands really run, in this process; the times are made up."""
    seconds = iter([4.0, 3.0, 5.0, 2.0, 6.0, 6.0])

    def run(script: str, *arguments: object) -> float:
        assert script == "txt2img.py"
        outcome = call("txt2img", *arguments)
        assert outcome.status == 0, outcome.said
        return next(seconds)

    monkeypatch.setattr(benchmark, "timed_run", run)
    flags = ["--checkpoints", "2", "--runs", "2", "-v", "2", "--json", str(tmp_path / "figures.json")]
    assert benchmark.main(flags) == 0
    output = capsys.readouterr().out
    assert "| one comparison of 2 checkpoints | 3.0 | 2.0 to 4.0 | 2 |" in output
    assert "| 2 separate runs | 10.0 | 8.0 to 12.0 | 2 |" in output
    assert "The comparison is 4.00 times as fast (2.00 to 6.00); both gave the same 4 images." in output
    assert json.loads((tmp_path / "figures.json").read_text())["seconds"]["separate"] == [8.0, 12.0]


def test_the_checkpoints_differ_and_belong_to_one_run(tmp_path: Path) -> None:
    benchmark.write_run(tmp_path / "run-1", benchmark.EMBEDDED, 3)
    found, skipped = find_checkpoints(tmp_path / "run-1", checkpoint_info)
    assert [one.step for one in found] == [100, 200, 300]
    assert len({one.parts["unet"] for one in found}) == 3
    assert len({one.parts["text_encoder"] for one in found}) == 1
    assert not skipped


def test_other_images_are_an_error() -> None:
    black, white = np.zeros((2, 2, 3), int), np.full((2, 2, 3), 255)
    benchmark.raise_unless_same([black], [black], 1)
    with pytest.raises(UserError, match="differ by up to 255"):
        benchmark.raise_unless_same([black], [white], 1)
    with pytest.raises(UserError, match="2 images were expected"):
        benchmark.raise_unless_same([black], [black], 2)

"""The benchmark of saving: both sides save for real, at the smallest size."""

import json
from pathlib import Path

import pytest

import benchmarks.checkpoint as checkpoint
from benchmarks.checkpoint import OURS, REFERENCE, Clock, Saved, on_disk


@pytest.mark.slow
def test_waits_and_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.jsonl"
    flags = ["--size", "tiny", "--device", "cpu", "--runs", "1", "--warmup", "0", "--json", str(path)]
    assert checkpoint.main([*flags, "--directory", str(tmp_path)]) == 0
    lines = {line["contender"]: line for line in map(json.loads, path.read_text().splitlines())}
    assert lines.keys() == {OURS, REFERENCE}
    assert all(line["written"][0] > 0 for line in lines.values())
    (half, state, ours), (full, whole_state, theirs) = lines[OURS]["bytes"], lines[REFERENCE]["bytes"]
    assert 0 < half < 0.6 * full and ours == 4 * half + state and theirs == full + 4 * whole_state
    assert state == pytest.approx(whole_state, rel=0.1), "float32 weights and two moments on both sides"
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.jsonl"]
    assert "on disk after 4" in capsys.readouterr().out


def test_the_reference_keeps_every_state() -> None:
    saved = Saved(began_later=0.0, done_later=0.0, written=0.0, weights=2, state=11)
    assert (on_disk(OURS, saved), on_disk(REFERENCE, saved)) == (4 * 2 + 11, 2 + 4 * 11)


def test_a_step_that_takes_longer_after_a_save_is_waiting_too() -> None:
    clock = Clock()
    clock.began, clock.done = [0.0, 11.0, 14.0, 19.0], [10.0, 13.0, 16.0, 26.0]  # the first isn't like the others
    assert clock.later() == (2.0, 7.0), "3 instead of 1 s before it; 10 instead of 3 s until it was done"

"""Peaks of memory, here and in processes of their own."""

from pathlib import Path

import pytest
import torch

from benchmarks.tools.peaks import OUT_OF_MEMORY, STATUS, Peak, give_back_freed, held, peak_in_own_process, peak_of

CPU = torch.device("cpu")
needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells a process's peak")


@needs_proc
def test_the_peak_counts_although_its_memory_is_freed() -> None:
    give_back_freed()  # of earlier tests
    before = held(CPU)
    peak = peak_of(lambda: torch.ones(64, 1024, 1024).sum(), CPU, before)
    assert 0.24 < peak.allocated < 0.5
    assert peak_of(lambda: None, CPU, held(CPU)).allocated < 0.1, "an earlier peak is forgotten"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('print("hello"); print(\'{"allocated": 1.5, "reserved": 2.0}\')', Peak(1.5, 2.0)),
        ('raise SystemExit("torch.OutOfMemoryError: too much")', OUT_OF_MEMORY),
        ('raise SystemExit("something else")', "failed: something else"),
    ],
)
def test_a_process_of_its_own_says_its_peak_or_why_not(tmp_path: Path, body: str, expected: object) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nassert sys.argv[1:] == ['--size', 'tiny', '--peak-of', '1/ours']\n{body}\n")
    assert peak_in_own_process(script, "1/ours", ["--size", "tiny"]) == expected


def test_both_figures_are_shown_where_they_differ() -> None:
    assert str(Peak(1.5, 2.0)) == "2.00 (tensors 1.50)" and str(Peak(1.5, 1.5)) == "1.50"

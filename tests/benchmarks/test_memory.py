"""Peaks at equal settings: each contender can be built, and what is known is compared."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import benchmarks.memory as memory
import benchmarks.tools.contest as contest
from benchmarks.tools.peaks import OUT_OF_MEMORY, Peak

QUICK = ["--size", "tiny", "--device", "cpu"]


@pytest.mark.parametrize(
    "which",
    ["and gradient checkpointing/ours", "and gradient checkpointing/reference", "bfloat16 weights, 8-bit AdamW/ours"],
)
def test_a_contender_is_measured_alone(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main([*QUICK, "--peak-of", which]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]).keys() == {"allocated", "reserved"}


def test_peaks_are_compared_where_both_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def peak(script: str, which: str, arguments: Sequence[str]) -> Peak | str:
        calls.append(which)
        if which == "and gradient checkpointing/reference":
            return OUT_OF_MEMORY
        return Peak(12.0, 12.0) if which.endswith("reference") else Peak(8.0, 9.0)

    monkeypatch.setattr(contest, "peak_in_own_process", peak)
    path = tmp_path / "figures.jsonl"
    assert memory.main([*QUICK, "--strict", "--json", str(path)]) == 0
    output = capsys.readouterr().out
    assert "| float32 weights, AdamW | 9.00 (tensors 8.00) | 12.00 | 0.75 |" in output
    assert (
        "| and gradient checkpointing | 9.00 (tensors 8.00) | out of memory | - |" in output and "1 of 1 met" in output
    )
    assert "| float32 weights, 8-bit AdamW | 9.00 (tensors 8.00) | - | - |" in output, "bitsandbytes needs CUDA"
    assert len(path.read_text().splitlines()) == len(calls) == len(memory.EQUAL) + len(memory.ONLY_OURS) + 2

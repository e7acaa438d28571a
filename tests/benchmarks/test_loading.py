"""The loaders give the same weights from their own kinds of file, and each is measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import benchmarks.loading as loading
from benchmarks.tools.sizes import SIZES
from ldm.errors import UserError

FIGURES = {"seconds": 1.0, "read_seconds": 2.0, "own_gib": 0.5, "peak_gib": 3.0}


@pytest.mark.slow
def test_every_loader_reads_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = loading.write_files(tmp_path, SIZES["tiny"])
    assert [name for name, _ in pairs] == [*loading.LOADERS]
    sums = []
    for name, path in pairs:
        networks = loading.LOADERS[name](path)
        sums.append(sum(float(p.double().abs().sum()) for network in networks for p in network.parameters()))
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-9) and sums[0] > 0
    loading.measure(*pairs[0])
    figures = json.loads(capsys.readouterr().out)
    assert figures.keys() == FIGURES.keys() and 0 < figures["seconds"] < figures["read_seconds"]


def test_processes_take_turns_and_the_cold_one_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def run(command: list[str], **options: object) -> SimpleNamespace:
        calls.append(command[-1])
        assert command[:2] == [sys.executable, loading.__file__] and command[3] == "--measure"
        line = FIGURES | {"seconds": 100.0 if len(calls) <= 2 else 1.0}
        return SimpleNamespace(returncode=0, stdout=f"warning\n{json.dumps(line)}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(loading, "machine", lambda: "a machine")
    assert loading.main([str(tmp_path / "sd.ckpt"), "--runs", "2", "--json", str(tmp_path / "figures.json")]) == 0
    assert calls == [*loading.LOADERS][:2] * 3
    assert "| ours | 1 (1 to 1) | 2 (2 to 2) | 0.5 (0.5 to 0.5) | 3 (3 to 3) |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "figures.json").read_text())["loaders"]["ours"]["seconds"]["values"]) == 2


def test_a_file_that_cannot_be_read_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1, stdout="", stderr="damaged"))
    with pytest.raises(UserError, match="damaged"):
        list(loading.run([("ours", Path("x"))], 1))

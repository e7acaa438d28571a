"""The benchmark of start-up times, with processes that take no time."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import benchmarks.startup as startup
from ldm.commands.options.sampling import txt2img_parser
from ldm.errors import UserError

IMPORTS = """import time: self [us] | cumulative | imported package
import time:       200 |        200 |     torch._C
import time:   1000000 |    1000200 |   torch
import time:   2000000 |    3000200 | transformers.models
Some other line.
"""


def test_times_and_imports_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(arguments: Sequence[object]) -> str:
        commands.append([*map(str, arguments)])
        return IMPORTS

    monkeypatch.setattr(startup, "run", run)
    assert startup.main(["--runs", "2", "--only", "train.py", "--json", str(tmp_path / "figures.json")]) == 0
    output = capsys.readouterr().out
    assert commands.count(["train.py", "--help"]) == 3, "two that count"
    assert "| `transformers` | 2.00 |\n| `torch` | 1.00 |" in output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["seconds"]["`train.py --help`"]) == 2
    first = next(command for command in commands if command[0] == "txt2img.py")
    typed = txt2img_parser().parse_args(first[1:])
    assert typed.variations == 1 and typed.ddim_steps == 1 and (startup.ROOT / typed.ckpt_path).exists()


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(UserError, match="status 3"):
        startup.run(["-c", "raise SystemExit(3)"])

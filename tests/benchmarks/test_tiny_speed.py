"""The benchmark of the quick start's times, with commands that take as long as they are told to."""

import json
from pathlib import Path

import pytest

import benchmarks.tiny_speed as benchmark
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.options.sampling import txt2img_parser

PARSERS = {"txt2img.py": txt2img_parser, "dreambooth.py": dreambooth_parser}


@pytest.mark.parametrize(
    ("seconds", "status"), [((9.0, 30.0, 8.0, 200.0, 20.0), 0), ((9.0, 11.0, 12.0, 250.0, 20.0), 1)]
)
def test_times_are_compared_with_their_goals(
    seconds: tuple[float, ...],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left, commands = list(seconds), []

    def run(script: str, *arguments: object) -> float:
        commands.append(PARSERS[script]().parse_args([*map(str, arguments)]))
        return left.pop(0)

    monkeypatch.setattr(benchmark, "timed_run", run)
    weights = tmp_path / "tiny.safetensors"
    flags = ["--ckpt-path", str(weights), "--json", str(tmp_path / "figures.json")]
    assert benchmark.main([*flags, "--strict"]) == status
    said = capsys.readouterr().out
    median = sorted(seconds[:3])[1]
    assert f"| {median:.1f} | {min(seconds[:3]):.1f} to {max(seconds[:3]):.1f} | 3 | 10.0 |" in said
    assert f"{2 * (1 - status)} of 2 met" in said

    *drawn, taught, compared = commands
    assert [command.ckpt_path for command in (*drawn, taught)] == [weights] * 4
    assert (taught.class_name, taught.instance_img_dir, taught.save_every) == ("water bottle", Path("data/bottle"), 200)
    assert drawn[0].variations == 4 and compared.ckpt_path == taught.output_dir
    assert [*json.loads((tmp_path / "figures.json").read_text())["seconds"].values()][1] == [seconds[3]]

"""The benchmark of the quick start's times, with commands of given durations."""

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
def test_times_are_compared_with_their_targets(
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
    output = capsys.readouterr().out
    median = sorted(seconds[:3])[1]
    assert f"| {median:.1f} | {min(seconds[:3]):.1f} to {max(seconds[:3]):.1f} | 3 | 10.0 |" in output
    assert f"{2 * (1 - status)} of 2 met" in output

    *sampled, tuned, compared = commands
    assert [command.ckpt_path for command in (*sampled, tuned)] == [weights] * 4
    assert (tuned.class_name, tuned.instance_img_dir, tuned.save_every) == ("water bottle", Path("data/bottle"), 200)
    assert sampled[0].variations == 4 and compared.ckpt_path == tuned.output_dir
    assert [*json.loads((tmp_path / "figures.json").read_text())["seconds"].values()][1] == [seconds[3]]

"""The benchmarks against diffusers at their smallest size: they run, and say what they should."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import benchmarks.sampling as sampling
import benchmarks.training_step as training_step
import benchmarks.unet_forward as unet_forward
from benchmarks.tools.contest import Result, contest_parser, place_from, run_contests
from benchmarks.tools.floors import Speed
from benchmarks.tools.measuring import Spread
from benchmarks.tools.peaks import Peak
from ldm.errors import UserError
from ldm.runtime.devices import Compute

QUICK = ["--size", "tiny", "--device", "cpu", "--runs", "1", "--warmup", "0"]

Lines = list[dict[str, Any]]
Measure = Callable[..., tuple[Lines, str]]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Measure:
    """Runs a benchmark without peaks; its lines of JSON and what it printed."""

    def run(script: ModuleType, *arguments: str) -> tuple[Lines, str]:
        monkeypatch.setattr(script, "measure_speed", lambda device, dtype: Speed(tflops=1.0, copy_gbs=10.0))
        path = tmp_path / "figures.jsonl"
        assert script.main([*QUICK, "--no-peaks", "--json", str(path), *arguments]) == 0
        return [json.loads(line) for line in path.read_text().splitlines()], capsys.readouterr().out

    return run


@pytest.mark.slow
def test_the_forward_pass(measure: Measure) -> None:
    lines, output = measure(unet_forward, "--batch-sizes", "1", "2")
    names = [unet_forward.OURS, unet_forward.PLAIN, unet_forward.TUNED]
    assert [(line["batch_size"], line["contender"]) for line in lines] == [(n, name) for n in (1, 2) for name in names]
    assert all(len(line["seconds"]) == 1 and line["seconds"][0] > 0 for line in lines)
    assert lines[3]["floor_seconds"] == pytest.approx(2 * lines[0]["floor_seconds"])
    assert {"diffusers", "torch", "python"} <= set(lines[0]["versions"]) and lines[0]["size"] == "tiny"
    assert output.count("| diffusers |") == 2 and "difference of the networks" in output


@pytest.mark.slow
def test_class_images(measure: Measure) -> None:
    lines, output = measure(sampling, "--batch-sizes", "2", "--batches", "2", "--steps", "5", "--compile", "off")
    assert {line["contender"]: line["steps"] for line in lines} == {
        sampling.OURS: 5,
        sampling.FAST: 2,
        sampling.PLAIN: 5,
        sampling.TUNED: 5,
    }
    assert "both sample the same image" in output and "Targets:" in output


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--train-text-encoder"]])
def test_a_training_step(measure: Measure, flags: list[str]) -> None:
    lines, output = measure(training_step, "--steps", "2", "--first-steps", "1", *flags)
    assert [line["contender"] for line in lines] == [training_step.OURS, training_step.PLAIN, training_step.TUNED]
    assert all(line["seconds"][0] > 0 for line in lines)
    assert "both compute the same loss" in output


@pytest.mark.parametrize(
    ("script", "which"),
    [
        (unet_forward, "1/diffusers"),
        (sampling, "1/ours, DDIM"),
        (training_step, "text encoder frozen/reference, tuned"),
    ],
)
def test_a_peak_is_measured_alone(script: ModuleType, which: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--batch-sizes", "1"] if script is not training_step else ["--steps", "1", "--first-steps", "0"]
    assert script.main([*QUICK, *flags, "--peak-of", which]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]).keys() == {"allocated", "reserved"}


def test_a_run_at_least() -> None:
    with pytest.raises(UserError, match="--runs"):
        unet_forward.main(["--size", "tiny", "--runs", "0"])


def spread(*values: float) -> Result:
    return Result(Spread(values), Peak(values[0], values[0]))


def test_targets_are_those_of_the_kind_of_device() -> None:
    flags = contest_parser(None).parse_args([*QUICK, "--no-peaks"])
    cpu = place_from(flags)
    gpu = replace(cpu, compute=Compute(torch.device("cuda")))
    steps = {training_step.OURS: spread(2.0), training_step.TUNED: spread(3.0)}
    assert [target.met for target in training_step.targets(steps, 1.0, cpu)] == [True, True]
    assert [target.met for target in training_step.targets(steps, 1.0, gpu)] == [False, True, True]

    names = (sampling.OURS, sampling.FAST, sampling.PLAIN, sampling.TUNED)
    images = {"4": dict(zip(names, map(spread, (2.0, 0.8, 6.0, 2.2)), strict=True))}
    lines = [{"contender": sampling.OURS, "batch_size": 4, "floor_seconds": 0.2, "seconds_per_image": Spread((0.5,))}]
    assert all(target.met for target in sampling.targets(images, lines, cpu))
    missed = [target.name for target in sampling.targets(images, lines, gpu) if not target.met]
    assert missed == ["batch 4, times as fast as diffusers, tuned", "of the floor"]


def test_one_for_which_memory_was_too_small_has_no_target() -> None:
    place = place_from(contest_parser(None).parse_args([*QUICK, "--no-peaks"]))
    assert training_step.targets({training_step.OURS: spread(2.0)}, 1.0, place) == []
    assert sampling.targets({"4": {sampling.OURS: spread(2.0)}}, [], place) == []

    def too_large() -> float:
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="ours doesn't fit"):
        run_contests({"1": {"ours": lambda: too_large, "theirs": lambda: lambda: 1.0}}, place, ["script.py"])

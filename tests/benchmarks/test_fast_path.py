"""The benchmark of fast ways of sampling, on the tiny model."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import benchmarks.fast_path as benchmark
from benchmarks.fast_path import Difference, Sampled, difference
from tests.simulated_capture import SimulatedCapture


@pytest.mark.slow
def test_each_way_has_a_row_and_images(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, figures = tmp_path / "sheet.jpg", tmp_path / "figures.json"
    how = ["--ckpt-path", str(tiny_checkpoint), "--device", "cpu", "--steps", "2", "--without-compile"]
    assert benchmark.main([*how, "--prompts", "a dog", "a cat", "--sheet", str(sheet), "--json", str(figures)]) == 0
    output = capsys.readouterr().out
    assert "| float32, in one batch |" in output and "| bfloat16 weights |" in output
    assert "TF32" not in output and "graphs" not in output, "these need CUDA"
    found = json.loads(figures.read_text())["differences"]
    batch, half = found["float32, in one batch"], found["bfloat16 weights"]
    assert batch["call"] < 1e-5 < half["call"] < 0.1
    assert batch["psnr"] > half["psnr"]
    assert Image.open(sheet).size[0] > 2 * 160


def test_differences_are_in_levels_and_of_the_worst_image() -> None:
    eps = torch.tensor([[[[2.0, -4.0]]]])
    plain = Sampled(torch.zeros(2, 3, 4, 4), eps)
    moved = torch.zeros(2, 3, 4, 4)
    moved[1] = 2 / 255
    assert difference(plain, plain) == Difference(0.0, 0.0, math.inf, 0.0)
    found = difference(Sampled(moved, eps + 0.1), plain)
    assert (found.mean, found.most) == pytest.approx((0.5, 1.0))
    assert found.psnr == pytest.approx(20 * math.log10(255), rel=1e-4)
    assert found.call == pytest.approx(0.1 / 4)


def test_a_compiled_way_is_compared_by_its_captured_call(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The single call has the types and shapes of a step's; otherwise it would be a plain one."""
    capture = SimulatedCapture()
    monkeypatch.setattr("ldm.runtime.compiling.CAPTURES", {"full": capture})
    for sampler in ("dpm-solver", "ddim"):
        capture.replayed = 0
        how = ["--ckpt-path", str(tiny_checkpoint), "--device", "cpu", "--steps", "3", "--sampler", sampler]
        task = benchmark.parse([*how, "--prompts", "a dog", "a cat"])[0]
        benchmark.sample(benchmark.Way("float32, --compile full", compile="full"), task)
        assert capture.replayed == 1 + 2 + 1, "a check, two steps, and the single call"

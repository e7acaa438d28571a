"""What the benchmarks compute with, by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import benchmarks.tools.common as common
from benchmarks.tools.common import (
    Count,
    Drawer,
    Goal,
    counts,
    judged,
    mean,
    mistakes,
    pair_similarity,
    scene_answers,
    timed_run,
    verdict,
    weights_flags,
    wilson,
    write_json,
)
from ldm.data.toyworld import Scene, random_scene
from ldm.errors import UserError
from ldm.evaluation.judge import Answer

CPU = torch.device("cpu")


class Says:
    """A judge with an answer ready for each picture."""

    def __init__(self, *answers: dict[str, str]) -> None:
        self.answers = answers

    def name(self, images: torch.Tensor) -> list[dict[str, Answer]]:
        return [{head: Answer(label, 1.0) for head, label in one.items()} for one in self.answers]


def scene_of(pattern: str, *colours: str) -> Scene:
    scene = random_scene(1, 0, class_name="duck", setting="snow", split="all")
    return replace(scene, thing=replace(scene.thing, pattern=pattern, colours=colours))


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson(0, 20)
    assert low == pytest.approx(0.0, abs=1e-12) and high == pytest.approx(1.96**2 / (20 + 1.96**2))
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_counts_add_up_and_are_shown_in_percent() -> None:
    assert Count(3, 4) + Count(2, 6) == Count(5, 10)
    assert str(Count(5, 10)) == "50.0 (23.7 to 76.3)"
    assert str(Count(0, 0)) == "-" and math.isnan(Count(0, 0).percent)


def test_the_interval_of_a_mean_is_by_its_standard_error() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5 and found.count == 4
    assert found.half == pytest.approx(1.96 * math.sqrt(5 / 3) / 2)
    assert math.isnan(mean([1.0]).half)


def test_a_picture_is_no_pair_with_itself() -> None:
    assert pair_similarity(torch.tensor([[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]])) == pytest.approx(0.4)


def test_goals_are_met_from_either_side(capsys: pytest.CaptureFixture[str]) -> None:
    met = [Goal("class", 90.0, 90.0), Goal("time", 9.9, 10.0, "s", at_most=True)]
    missed = [Goal("setting", 89.9, 95.0), Goal("slow", 10.1, 10.0, "s", at_most=True), Goal("colour", math.nan, 90.0)]
    assert all(goal.met for goal in met) and not any(goal.met for goal in missed)
    assert verdict(met, strict=True) == 0
    assert verdict([*met, *missed], strict=False) == 0
    assert verdict([*met, *missed], strict=True) == 1
    said = capsys.readouterr().out
    assert "2 of 5 met" in said and "setting: 89.9 %, should be ≥ 95 %" in said
    assert "slow: 10.1 s, should be ≤ 10 s" in said


def test_either_colour_of_stripes_and_checks_is_right() -> None:
    assert scene_answers(scene_of("striped", "red", "white"))["colour"] == {"red", "white"}
    assert scene_answers(scene_of("checkered", "red", "white"))["colour"] == {"red", "white"}
    assert scene_answers(scene_of("spotted", "red", "white")) == {
        "class": {"duck"},
        "setting": {"snow"},
        "colour": {"red"},
        "pattern": {"spotted"},
    }


def test_answers_are_counted_and_mistakes_named() -> None:
    scenes = [scene_of("plain", "red"), scene_of("plain", "red"), scene_of("striped", "blue", "white")]
    right = {"class": "duck", "setting": "snow", "colour": "red", "pattern": "plain"}
    evaluator = Says(right, right | {"class": "hat"}, right | {"colour": "white", "pattern": "striped"})
    answers = judged(evaluator, torch.zeros(3, 3, 8, 8), scenes)  # type: ignore[arg-type]
    assert counts(answers) == {
        "class": Count(2, 3),
        "setting": Count(3, 3),
        "colour": Count(3, 3),
        "pattern": Count(3, 3),
        "all four": Count(2, 3),
    }
    assert mistakes(answers, scenes)[:2] == ["- class: duck taken for hat (1)", "- setting: none"]


def test_a_drawer_draws_what_the_command_would(tiny_checkpoint: Path) -> None:
    drawer = Drawer(tiny_checkpoint, CPU)
    prompts = ["a red ball", "a blue hat", "a red ball", "a cat", "a dog"]
    drawn = drawer.draw(prompts, [1, 2, 1, 3, 4])
    assert drawn.shape == (5, 3, 32, 32)
    assert torch.allclose(drawn[0], drawn[2], atol=1e-5) and not torch.allclose(drawn[0], drawn[1], atol=0.01)
    assert torch.allclose(drawer.draw(prompts[3:4], [3])[0], drawn[3], atol=1e-4)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert drawer.reconstruct(images).shape == images.shape


def test_weights_are_named_where_the_command_would_take_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "base_weights", lambda path: common.EMBEDDED)
    assert weights_flags(None) == []
    assert weights_flags(tmp_path / "a.safetensors") == ["--ckpt-path", str(tmp_path / "a.safetensors")]
    monkeypatch.setattr(common, "base_weights", lambda path: tmp_path / "downloaded.ckpt")
    assert weights_flags(None) == ["--ckpt-path", str(common.EMBEDDED)]


def test_a_command_is_timed_and_its_failure_told() -> None:
    assert 0.1 <= timed_run("-c", "import time; time.sleep(0.1)") < 60
    with pytest.raises(UserError, match=r"status 3(.|\n)*what is wrong"):
        timed_run("-c", "import sys; print('what is wrong'); sys.exit(3)")


def test_figures_are_written_as_json(tmp_path: Path) -> None:
    write_json(None, {})
    write_json(tmp_path / "a" / "figures.json", {"right": Count(1, 2), "psnr": mean([1.0, 1.0])})
    assert json.loads((tmp_path / "a" / "figures.json").read_text()) == {
        "right": {"right": 1, "asked": 2},
        "psnr": {"value": 1.0, "half": 0.0, "count": 2},
    }

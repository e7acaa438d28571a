"""What the judge says, counted."""

from dataclasses import replace

import pytest
import torch

from benchmarks.tools.intervals import Count
from benchmarks.tools.judging import counts, judged, mistakes, pair_similarity, scene_answers
from ldm.toyworld import Scene, random_scene
from ldm.toyworld.judge.encoder import Answer


class Says:
    """A judge with an answer ready for each image."""

    def __init__(self, *answers: dict[str, str]) -> None:
        self.answers = answers

    def name(self, images: torch.Tensor) -> list[dict[str, Answer]]:
        return [{head: Answer(label, 1.0) for head, label in one.items()} for one in self.answers]


def scene_of(pattern: str, *colours: str) -> Scene:
    scene = random_scene(1, 0, class_name="duck", setting="snow", split="all")
    return replace(scene, thing=replace(scene.thing, pattern=pattern, colours=colours))


def test_an_image_is_no_pair_with_itself() -> None:
    assert pair_similarity(torch.tensor([[1.0, 0.2, 0.4], [0.2, 1.0, 0.6], [0.4, 0.6, 1.0]])) == pytest.approx(0.4)


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

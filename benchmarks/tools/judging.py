"""The toy world's judge on images, compared with what their prompts describe."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from benchmarks.tools.intervals import Count
from ldm.toyworld import Scene
from ldm.toyworld.judge.data import HALF_AND_HALF, HEADS
from ldm.toyworld.judge.encoder import Evaluator

QUESTIONS = tuple(head.name for head in HEADS)
"""The judge's heads: class, setting, colour, pattern."""

ALL = "all four"


def scene_answers(scene: Scene) -> dict[str, set[str]]:
    """By head: the right answers for a scene with an ordinary thing; for stripes and checks, either colour."""
    thing = scene.thing
    colours = thing.colours if thing.pattern in HALF_AND_HALF else thing.colours[:1]
    return {
        "class": {thing.class_name},
        "setting": {scene.setting},
        "colour": set(colours),
        "pattern": {thing.pattern},
    }


def judged(evaluator: Evaluator, images: Tensor, scenes: Sequence[Scene]) -> list[dict[str, tuple[bool, str]]]:
    """For each image and head whether the judge's answer is right, and the answer."""
    return [
        {head: (answers[head].label in right, answers[head].label) for head, right in scene_answers(scene).items()}
        for answers, scene in zip(evaluator.name(images), scenes, strict=True)
    ]


def counts(answers: Sequence[dict[str, tuple[bool, str]]]) -> dict[str, Count]:
    """By head, and how many images are right in all of them."""
    right = {head: [one[head][0] for one in answers] for head in QUESTIONS}
    right[ALL] = [all(one[head][0] for head in QUESTIONS) for one in answers]
    return {head: Count(sum(values), len(values)) for head, values in right.items()}


def mistakes(answers: Sequence[dict[str, tuple[bool, str]]], scenes: Sequence[Scene], most: int = 6) -> list[str]:
    """The most frequent ones of each head, a line each."""
    lines = []
    for head in QUESTIONS:
        wrong = Counter(
            (" or ".join(sorted(scene_answers(scene)[head])), one[head][1])
            for one, scene in zip(answers, scenes, strict=True)
            if not one[head][0]
        )
        listed = ", ".join(f"{true} taken for {answer} ({count})" for (true, answer), count in wrong.most_common(most))
        lines.append(f"- {head}: {listed or 'none'}")
    return lines


def pair_similarity(similarity: Tensor) -> float:
    """The mean of all pairs of different images in a square of cosines."""
    count = len(similarity)
    return float((similarity.sum() - similarity.diagonal().sum()) / (count * (count - 1)))

"""Two runs at a time with the same files: both are as if alone, or one is refused with a reason."""

import itertools
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.reliability_campaign.cases import Case, Outcome, Part, told
from benchmarks.reliability_campaign.chains import continue_to_end, last_lines, untold
from benchmarks.reliability_campaign.comparing import differences, digests
from benchmarks.reliability_campaign.moments import Fault
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import Ended, Running, Work, run
from benchmarks.reliability_campaign.scenes import BY_NAME, Scene

BESIDE = ("dreambooth", "diffusion", "txt2img", "evaluate", "autoencoder", "img2img", "judge")
"""Scenes of which two begin in the same directory, where they share class images and encoded images."""
APART = 0.3
"""The largest delay of the second, in seconds."""
REFUSED = "another process"
"""The message for the second."""
OTHER = "the-other-run"


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Two that begin and two that resume, in turns, with different delays."""
    for number, name in enumerate(itertools.cycle(BESIDE)):
        scene, apart = BY_NAME[name], random.Random(f"{seed}-{number}").uniform(0.0, APART)
        yield Case(f"{2 * number:03d}-beside-{name}-{seed}", partial(beside, scene, apart, f"{number}-{seed}"))
        yield Case(f"{2 * number + 1:03d}-same-{name}-{seed}", partial(same, scene, apart, f"{number}-{seed}"))


def together(work: Work, root: Path, apart: float) -> list[Ended]:
    """The same command twice at a time."""
    first = Running(work, root)
    time.sleep(apart)
    second = Running(work, root)
    return [first.end(), second.end()]


def beside(scene: Scene, apart: float, name: str, place: Place) -> Outcome:
    """Two new runs with the same output directory: each makes its own directory."""
    expected = place.reference(scene).files
    outcome = Outcome()
    with place.case(f"beside-{scene.name}-{name}") as root:
        work = scene.work(place.fixtures, root)
        both = together(work, root, apart)
        for ended in both:
            outcome.failures += untold(ended)
            if ended.status != 0:
                outcome.failures.append(f"status {ended.status}: {last_lines(ended)}")
        stem = scene.runs.removesuffix("-*")
        as_first = {f"{stem}-1": f"{OTHER}-1", f"{stem}-2": f"{stem}-1"}
        for number, renamed in enumerate(({f"{stem}-2": f"{OTHER}-1"}, as_first), 1):
            own = {path: value for path, value in digests(root, renamed).items() if not path.startswith(OTHER)}
            outcome.failures += [f"run {number}: {line}" for line in differences(expected, own)]
        outcome.counts.update({"pairs": 1, "in the same directory": 1})
        return told(outcome, root, [ended.said for ended in both])


def same(scene: Scene, apart: float, name: str, place: Place) -> Outcome:
    """A killed run is resumed by two processes: one does it, the other is refused, or finds it finished."""
    reference = place.reference(scene)
    outcome, said = Outcome(), []
    with place.case(f"same-{scene.name}-{name}") as root:
        killed = run(scene.work(place.fixtures, root), root, Fault("kill", nth=len(reference.writes) // 2))
        both = together(scene.continued(place.fixtures, root), root, apart)
        said += [killed.said, *(ended.said for ended in both)]
        for ended in both:
            outcome.failures += untold(ended)
            if ended.status == 2 and REFUSED in ended.said:
                outcome.counts["refused"] += 1
            elif ended.status != 0:
                outcome.failures.append(f"status {ended.status}: {last_lines(ended)}")
        if all(ended.status == 2 for ended in both):
            outcome.failures.append("both are refused")
        outcome.failures += continue_to_end(place, scene, root, said)
        outcome.counts.update({"pairs": 1, "one run continued twice": 1})
        return told(outcome, root, said)


PAIRS = Part("concurrent", "a pair of runs at the same time", "pairs", 20, 3, cases)

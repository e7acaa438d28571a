"""SIGKILL in chains: before a write, at any moment, and death in the middle of a write."""

import random
import signal
from collections.abc import Iterator
from functools import partial

from benchmarks.reliability_campaign.cases import Case, Outcome, Part, told
from benchmarks.reliability_campaign.chains import continue_to_end, last_lines, untold
from benchmarks.reliability_campaign.moments import Fault
from benchmarks.reliability_campaign.place import Place, Reference
from benchmarks.reliability_campaign.running import run
from benchmarks.reliability_campaign.scenes import BY_NAME, Scene

TURNS = (
    *("dreambooth", "autoencoder", "txt2img", "diffusion", "evaluate", "judge", "img2img", "tokenizer"),
    *("dreambooth", "diffusion", "txt2img", "autoencoder", "evaluate", "judge", "img2img", "publish"),
)
"""Scenes, one per chain; those with a single write are half as frequent."""
LINKS = 3
"""The most deaths in a chain."""
SMALLEST_TORN = 2000
"""Bytes: every system writes less than this at once."""


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Chains without end."""
    number = 0
    while True:
        scene = BY_NAME[TURNS[number % len(TURNS)]]
        yield Case(f"{number:04d}-{scene.name}-{seed}", partial(chain, scene, f"{number}-{seed}"))
        number += 1


def chain(scene: Scene, seed: str, place: Place) -> Outcome:
    """Kills a command up to three times, then lets it finish."""
    chance = random.Random(seed)
    reference, outcome, said = place.reference(scene), Outcome(), []
    with place.case(f"kills-{seed}") as root:
        scene.prepare(place.fixtures, root)
        for link in range(chance.randint(1, LINKS) if scene.runs else 1):
            work = scene.continued(place.fixtures, root)
            fault = any_death(reference, chance, later=link > 0)
            ended = run(work, root, fault)
            said.append(f"$ {work}\n{ended.said}\n{fault} before `{ended.last_event}`, status {ended.status}")
            outcome.failures += untold(ended)
            if ended.status == -signal.SIGKILL:
                outcome.counts["SIGKILL"] += 1
                outcome.counts[f"SIGKILL in {scene.name}"] += 1
            elif ended.status == -signal.SIGXFSZ:
                outcome.counts["death in a write"] += 1
                outcome.counts[f"death in a write of {scene.name}"] += 1
            elif ended.status == 0:
                break
            else:
                outcome.failures.append(f"link {link + 1}, `{work}`: status {ended.status}: {last_lines(ended)}")
                break
        outcome.failures += continue_to_end(place, scene, root, said)
        return told(outcome, root, said)


def any_death(reference: Reference, chance: random.Random, later: bool) -> Fault:
    """The moment at which a run is killed; a continued one has fewer writes left."""
    nth = chance.randrange(len(reference.writes) // (2 if later else 1))
    style = chance.choice(("before a write", "before a write", "at a moment", "in a write"))
    if style == "before a write":
        return Fault("kill", nth=nth)
    if style == "at a moment":
        return Fault("kill", nth=nth, delay=chance.uniform(0.0, 0.1))
    sizes = sorted(size for size in reference.sizes.values() if size > SMALLEST_TORN)
    size = chance.choice(sizes) if sizes else SMALLEST_TORN
    return Fault("torn", nth=nth, size=int(size * chance.uniform(0.05, 0.95)))


KILLS = Part("kills", "a SIGKILL, in chains over every command and stage", "SIGKILL", 300, 14, cases)

"""Thousands of damaged files: each is read, or refused by an error that names it; none of its code is run."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.reliability_campaign.cases import Case, Outcome, Part, told
from benchmarks.reliability_campaign.chains import last_lines
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import Work, run, words
from tests.checkpoint.mutations import KINDS, campaign
from tests.data.mutations import SECONDS, read_mutated

BATCH = 250
"""Files a process."""


def read_mutants(kind: str, seed: str, first: str, count: str, report: str) -> None:
    """In its own process: reads a batch, and writes the outcomes."""
    read = read_images if kind == "images" else read_checkpoints
    counts, failures = read(int(seed), int(first), int(count))
    Path(report).write_text(json.dumps({"counts": counts, "failures": failures}), encoding="utf-8")


def read_images(seed: int, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Each by its number; another seed has others."""
    counts, failures, start = Counter[str](), [], seed * 1_000_000 + first
    for result in read_mutated(range(start, start + count), Path.cwd()):
        if result.outcome in ("read", "refused") and result.seconds < SECONDS:
            counts[result.outcome] += 1
        else:
            failures.append(str(result))
    return counts, failures


def read_checkpoints(seed: int, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """The kinds of files in turns, a batch each."""
    kind = list(KINDS)[first // BATCH % len(KINDS)]
    try:
        tally = campaign(kind, count, Path.cwd(), seed, first)
    except AssertionError as error:
        return Counter(), [str(error)]
    return Counter({"read": tally.opened, "refused": tally.refused, f"of the kind {kind}": count}), []


def mutants(kind: str, place: Place, count: int, seed: int) -> Iterator[Case]:
    """Batches."""
    for first in range(0, count, BATCH):
        yield Case(f"{kind}-{first:05d}-{seed}", partial(batch, kind, seed, first, min(BATCH, count - first)))


def batch(kind: str, seed: int, first: int, size: int, place: Place) -> Outcome:
    """One process that reads a batch of files; if a signal ends it, its current file is kept."""
    outcome = Outcome()
    with place.case(f"{kind}-{first}-{seed}") as root:
        work = Work(kind, words(kind, seed, first, size, "report.json"), function=read_mutants)
        ended = run(work, root)
        if ended.status != 0:
            left = sorted(path.name for path in root.iterdir())
            outcome.failures.append(f"the process ended with {ended.status}, at {left}: {last_lines(ended)}")
        else:
            found = json.loads((root / "report.json").read_text(encoding="utf-8"))
            outcome.counts.update({kind: size, **found["counts"]})
            outcome.failures += found["failures"]
        return told(outcome, root, [ended.said])


IMAGES = Part("images", "a mutated image", "images", 10_000, 300, partial(mutants, "images"))
CHECKPOINTS = Part("checkpoints", "a mutated checkpoint", "checkpoints", 10_000, 300, partial(mutants, "checkpoints"))

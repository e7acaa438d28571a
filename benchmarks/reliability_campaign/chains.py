"""Continues interrupted commands to their end, and checks that nothing was lost."""

from pathlib import Path

from benchmarks.reliability_campaign.comparing import differences, digests
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import TIMEOUT, Ended, Work, run
from benchmarks.reliability_campaign.scenes import Scene

TRACEBACK = "Traceback (most recent call last)"


def continue_to_end(place: Place, scene: Scene, root: Path, said: list[str], work: Work | None = None) -> list[str]:
    """Continues without a fault, by this work if one is given; returns the differences from an uninterrupted run."""
    if not scene.runs and not unlike_the_reference(place, scene, root):
        return []  # it was finished, and a second call would be refused
    work = work or scene.continued(place.fixtures, root)
    ended = run(work, root)
    said.append(f"$ {work}\n{ended.said}")
    failures = untold(ended)
    if ended.status != 0:
        failures.append(f"continuing by `{work}` ended with status {ended.status}: {last_lines(ended)}")
    return failures + unlike_the_reference(place, scene, root)


def unlike_the_reference(place: Place, scene: Scene, root: Path) -> list[str]:
    """The differences from the files of an uninterrupted run."""
    run_dir = scene.last_run(root)
    first = run_dir and f"{run_dir.name.rpartition('-')[0]}-1"
    renamed = {run_dir.name: first} if run_dir and first and run_dir.name != first else {}
    return differences(place.reference(scene).files, digests(root, renamed))


def untold(ended: Ended) -> list[str]:
    """What no user should see, however a process ends."""
    failures = []
    if TRACEBACK in ended.said:
        failures.append(f"a traceback: {last_lines(ended)}")
    if ended.timed_out:
        failures.append(f"it hung for {TIMEOUT:.0f} seconds or more after `{ended.last_event}`")
    return failures


def last_lines(ended: Ended, count: int = 4) -> str:
    """The end of its output, in one line."""
    lines = ended.said.replace("\r", "\n").splitlines()
    return " | ".join([line for line in lines if line.strip()][-count:])[-600:]

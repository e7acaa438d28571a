"""A full disk, and a limit on the size of files, in every kind of write: an error that names the file, nothing lost."""

import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.reliability_campaign.cases import Case, Failed, Outcome, Part, told
from benchmarks.reliability_campaign.chains import continue_to_end, last_lines, unlike_the_reference, untold
from benchmarks.reliability_campaign.moments import Fault
from benchmarks.reliability_campaign.place import Place, Reference
from benchmarks.reliability_campaign.running import run
from benchmarks.reliability_campaign.scenes import SCENES, Scene
from ldm.errors import UserError

DISK = 96 << 20
"""Bytes of the small disk; a whole run takes a third of it."""
FAULTS = {"fill": "a full disk", "limit": "a limit on the size of files"}


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Each kind of write of each scene with both faults, in random order."""
    everything = [
        (scene, kind, action)
        for scene in SCENES
        for kind in kinds_of_writes(place.reference(scene))
        for action in FAULTS
    ]
    random.Random(seed).shuffle(everything)
    for scene, kind, action in everything:
        yield Case(f"{scene.name}-{action}-{kind}", partial(no_room, scene, kind, action))


def kinds_of_writes(reference: Reference) -> dict[str, int]:
    """The kinds of files that a run writes, and the number of the first write of each."""
    kinds: dict[str, int] = {}
    for index, event in enumerate(reference.writes):
        what, _, path = event.partition(" ")
        if what in ("write", "flush", "rename"):
            kinds.setdefault(kind_of_write(path), index)
    return kinds


def kind_of_write(path: str) -> str:
    """`can-1/samples/.step-00003.png.811.partial` is a `can-N/samples/step-N.png`."""
    if "tfevents" in path:
        return "log/events"
    whole = re.sub(r"(^|/)\.[^/]+/", r"\1", path)  # a temporary directory
    whole = re.sub(r"(^|/)\.([^/]+?)(\.\d+)?\.(partial|tmp)$", r"\1\2", whole)
    return re.sub(r"[0-9a-f]{12,}|\d+", "N", whole)


def no_room(scene: Scene, kind: str, action: str, place: Place) -> Outcome:
    """Fills the disk just before the first write of this kind; frees it, and continues."""
    reference = place.reference(scene)
    size = next((size for path, size in sorted(reference.sizes.items()) if kind_of_write(path) == kind), 0)
    outcome, said, name = Outcome(), [], re.sub(r"\W+", "-", f"disk-{scene.name}-{action}-{kind}")
    with small_disk(place.case_directory(name)) as disk:
        root = disk / "here"
        root.mkdir()
        ballast = disk / "ballast"
        nth = max(0, kinds_of_writes(reference)[kind] - 1)
        fault = Fault(action, nth=nth, size=size // 2, ballast=str(ballast))
        scene.prepare(place.fixtures, root)
        work = scene.work(place.fixtures, root)
        ended = run(work, root, fault)
        said.append(f"$ {work}\n{ended.said}\n{fault} before `{ended.last_event}`, status {ended.status}")
        ballast.unlink(missing_ok=True)
        outcome.failures += untold(ended)
        if not ended.befallen:
            outcome.counts["ended before its moment"] += 1
        else:
            outcome.counts["no room"] += 1
            outcome.counts[FAULTS[action]] += 1
        errors = [line for line in ended.said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
        if ended.status == 0:
            outcome.failures += unlike_the_reference(place, scene, root)
        elif ended.status != 2 or len(errors) != 1:
            outcome.failures.append(f"status {ended.status} with {len(errors)} errors: {last_lines(ended)}")
        elif str(root) not in errors[0]:
            outcome.failures.append(f"the error names no file of the run: {errors[0]}")
        outcome.failures += continue_to_end(place, scene, root, said)
        return told(outcome, root, said)


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A disk in memory. Raises `UserError` where this user may not mount one. One of a case that fails is copied."""
    directory.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(directory)]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        raise UserError(f"no small disk can be mounted, which takes the rights of root: {done.stderr.strip()}")
    try:
        yield directory
    except Failed:
        kept = directory.with_name(f"{directory.name}-failed")
        subprocess.run(["cp", "-r", f"{directory}/.", str(kept)], check=False)
        raise
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
        directory.rmdir()


DISKS = Part("disk", "a write for which there is no room", "no room", 120, 8, cases, to_the_end=True)

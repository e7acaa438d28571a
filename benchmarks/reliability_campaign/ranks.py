"""A run on two devices with one process killed: the other ends too, a message says how to resume, nothing is lost."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.reliability_campaign.cases import Case, Outcome, Part, told
from benchmarks.reliability_campaign.chains import continue_to_end, last_lines, untold
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import Running
from benchmarks.reliability_campaign.scenes import Fixtures, Scene, dreambooth_flags

MOMENTS = {
    "the second process starts": ("can-1/tokenizer/merges.txt", 0.0),
    "first steps": ("can-1/log", 6.0),
    "after the first checkpoint": ("can-1/step-00002.safetensors", 0.0),
    "after the first resume state": ("can-1/resume.ckpt", 0.05),
}
"""The awaited event, and further seconds."""
GONE = 60.0
"""Seconds within which all processes of the run end."""


def flags(fixtures: Fixtures, root: Path) -> tuple[object, ...]:
    """As on one device."""
    return (*dreambooth_flags(fixtures, root), "-d", "cpu,cpu")


SCENE = Scene("ranks", "dreambooth", flags, "can-*")


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Each process at each moment."""
    for number, (moment, rank) in enumerate((moment, rank) for moment in MOMENTS for rank in (1, 0)):
        yield Case(f"{number:02d}-rank-{rank}-{moment.replace(' ', '-')}", partial(killed, moment, rank))


def killed(moment: str, rank: int, place: Place) -> Outcome:
    """Kills one of both processes, waits for the end of the other, and continues on both devices."""
    place.reference(SCENE)
    file, delay = MOMENTS[moment]
    outcome, said = Outcome(), []
    with place.case(f"ranks-{rank}-{moment.replace(' ', '-')}") as root:
        work = SCENE.work(place.fixtures, root)
        running = Running(work, root, timeout=600)
        running.wait_until(lambda: (root / file).exists() and bool(training_processes(running.pid)))
        time.sleep(delay)
        victims = training_processes(running.pid) if rank else [running.pid]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        end = time.monotonic() + GONE
        while time.monotonic() < end and (running.poll() is None or running.others()):
            time.sleep(0.05)
        if running.poll() is None or running.others():
            outcome.failures.append(f"{GONE:.0f} s after process {rank} was killed a process is still there")
            os.killpg(running.pid, signal.SIGKILL)
        ended = running.end()
        said.append(f"$ {work}\n{ended.said}\nstatus {ended.status}")
        outcome.failures += untold(ended)
        if ended.status == 0:
            outcome.counts["ended before its moment"] += 1
        else:
            outcome.counts.update({"killed": 1, f"process {rank}: {moment}": 1})
            if rank and (ended.status < 0 or f"-r {SCENE.last_run(root)}" not in ended.said):
                outcome.failures.append(f"status {ended.status}, doesn't say how to continue: {last_lines(ended)}")
        outcome.failures += continue_to_end(place, SCENE, root, said)
        return told(outcome, root, said)


def training_processes(parent: int) -> list[int]:
    """The processes that were started for further devices of a run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, its_parent = stat.read_text().rpartition(")")[2].split()[:2]
            words = (stat.parent / "cmdline").read_bytes()
            if state != "Z" and int(its_parent) == parent and b"dreambooth.py" in words:
                found.append(int(stat.parent.name))
    return found


RANKS = Part("ranks", "one of two training processes, killed", "killed", 8, 1, cases)

"""Four signals at named moments of every command: finished work is kept, and one line says how to resume."""

import itertools
import re
import shlex
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.reliability_campaign.cases import Case, Outcome, Part, told
from benchmarks.reliability_campaign.chains import continue_to_end, last_lines, unlike_the_reference, untold
from benchmarks.reliability_campaign.moments import Fault
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import Work, run
from benchmarks.reliability_campaign.scenes import SCENES, Scene
from ldm.interruption import STATUS

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

TRAINING = {
    "planning": Fault("signal", r"read (tiny/tiny.safetensors|images/0|things/000)"),
    "the record": Fault("signal", r"rename .*run.yaml"),
    "first step": Fault("signal", r"write .*/log/", delay=0.05),
    "a checkpoint": Fault("signal", r"flush .*step-.*safetensors"),
    "its samples": Fault("signal", r"write .*samples/.*step-0*[1-9]"),
    "the resume state": Fault("signal", r"flush .*resume"),
    "mid training": Fault("signal", r"rename .*resume", delay=0.01),
    "the last checkpoint": Fault("signal", r"flush .*step-0*[46]\."),
}
"""Moments of each training, by what is done then."""
SAMPLING = {
    "planning": Fault("signal", r"read (tiny/tiny.safetensors|ckpts/)"),
    "the record": Fault("signal", r"rename .*run.yaml"),
    "sampling": Fault("signal", r"rename .*run.yaml", delay=0.1),
    "the first image": Fault("signal", r"write .*_\d\d-.*png"),
    "between images": Fault("signal", r"rename .*_\d\d-.*png", 4, delay=0.01),
    "a late image": Fault("signal", r"rename .*_\d\d-.*png", 10),
    "the table": Fault("signal", r"write .*pictures.csv"),
    "the page": Fault("signal", r"write .*index.html"),
}
MOMENTS = {
    "dreambooth": {
        **TRAINING,
        "class images": Fault("signal", r"rename class-images/.*00000"),
        "encoding": Fault("signal", r"read class-images/.*00000"),
        "first samples": Fault("signal", r"rename .*samples/step-00000"),
        "the report": Fault("signal", r"write .*report.yaml"),
    },
    "diffusion": {**TRAINING, "latents": Fault("signal", r"write latents/"), "encoding": Fault("signal", "read .*/7.")},
    "autoencoder": TRAINING,
    "judge": TRAINING,
    "txt2img": SAMPLING,
    "img2img": SAMPLING,
    "evaluate": {**SAMPLING, "scoring": Fault("signal", r"read evaluate-\d+/.*_\d\d-.*png", 3)},
    "tokenizer": {"planning": Fault("signal", "read images/metadata"), "writing": Fault("signal", "write tokenizer")},
    "publish": {"planning": Fault("signal", "read runs/"), "writing": Fault("signal", "flush house")},
}


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Every moment of every scene with every signal; the first few already touch all signals and most scenes."""
    everything = [(scene, moment, number) for scene in SCENES for moment in MOMENTS[scene.name] for number in SIGNALS]
    for start in range(len(SIGNALS) + 7):
        for scene, moment, number in itertools.islice(everything, start, None, len(SIGNALS) + 7):
            name = f"{scene.name}-{moment.replace(' ', '-')}-{number.name}"
            yield Case(name, partial(stopped, scene, moment, number, name))


def stopped(scene: Scene, moment: str, number: signal.Signals, name: str, place: Place) -> Outcome:
    """Sends the signal at the moment, reads the command that resumes, and runs it."""
    place.reference(scene)
    planned = MOMENTS[scene.name][moment]
    fault = Fault("signal", planned.where, planned.nth, planned.delay, number=number)
    outcome, said = Outcome(), []
    with place.case(f"signals-{name}") as root:
        scene.prepare(place.fixtures, root)
        work = scene.work(place.fixtures, root)
        ended = run(work, root, fault)
        said.append(f"$ {work}\n{ended.said}\n{fault} before `{ended.last_event}`, status {ended.status}")
        outcome.failures += untold(ended)
        if not ended.befallen:
            outcome.counts["ended before its moment"] += 1
        elif ended.status == 0:  # the signal came too late to stop anything
            outcome.counts["signal"] += 1
            outcome.counts["came too late: all was done"] += 1
            outcome.failures += [f"status 0, but {line}" for line in unlike_the_reference(place, scene, root)]
        else:
            outcome.counts["signal"] += 1
            outcome.counts[number.name] += 1
            outcome.counts[f"while: {moment}"] += 1
            if ended.status != STATUS:
                outcome.failures.append(f"status {ended.status}, not {STATUS}: {last_lines(ended)}")
        named = said_to_continue(scene, root, ended.said) if ended.befallen and ended.status else None
        if ended.befallen and ended.status and scene.last_run(root) and named is None:
            outcome.failures.append(f"it doesn't say how to continue: {last_lines(ended)}")
        outcome.failures += continue_to_end(place, scene, root, said, named)
        return told(outcome, root, said)


def said_to_continue(scene: Scene, root: Path, said: str) -> Work | None:
    """The command that its output names for resuming, if it names the run directory."""
    run_dir = scene.last_run(root)
    for line in re.findall(rf"python {scene.command}\.py (.*-r .*)", said):
        given = tuple(shlex.split(line))
        if run_dir and Path(given[-1]).resolve() == run_dir.resolve():
            return Work(scene.command, given, scene.patches(root))
    return None


SIGNAL = Part("signals", "a signal (TERM, INT, HUP, USR1) at a named moment", "signal", 240, 12, cases, to_the_end=True)

"""Hostile files, given to every command: refused at once by an error that names them, before anything is made."""

import itertools
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability_campaign.cases import Case, Outcome, Part, told
from benchmarks.reliability_campaign.chains import last_lines, untold
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import Work, run, words
from benchmarks.reliability_campaign.scenes import Fixtures
from tests.checkpoint import hostile
from tests.checkpoint.files import ATTACKS, few_tensors

Maker = Callable[[Path], Path]
"""Writes a file into a directory; its path."""
MARKER = "code-was-run"
"""The file that a successful attack would write beside its own."""
AT_ONCE = 20.0
"""Seconds, on a busy machine, of which importing takes most."""

COMMANDS: dict[str, Callable[[Fixtures, Path], tuple[object, ...]]] = {
    "txt2img": lambda fixtures, file: ("txt2img", "-c", file, "-v", 1, "-o", "out"),
    "evaluate": lambda fixtures, file: ("evaluate", "-c", file, "-v", 1, "-o", "out", "-i", fixtures.photos),
    "img2img": lambda fixtures, file: ("img2img", "-c", file, "-i", fixtures.photos / "0.png", "-o", "out"),
    "base of txt2img": lambda fixtures, file: ("txt2img", "-c", fixtures.ckpts, "--base", file, "-v", 1, "-o", "out"),
    "dreambooth": lambda fixtures, file: (
        *("dreambooth", "-c", "can", "-i", fixtures.photos, "--ckpt-path", file, "-o", "out"),
    ),
    "autoencoder": lambda fixtures, file: (
        *("train", "autoencoder", "-i", fixtures.images, "--ckpt-path", file, "-o", "out"),
    ),
    "diffusion": lambda fixtures, file: (
        *("train", "diffusion", "-i", fixtures.images, "--autoencoder", file, "-o", "out"),
        *("--config", fixtures.config),
    ),
    "publish": lambda fixtures, file: ("train", "publish", "--ckpt-path", file, "--config", fixtures.config),
}
COMPARISON = "a comparison"
TOLD_BY_READING = ("a directory",)
"""Files that some commands accept rightly."""


def makers() -> dict[str, Maker]:
    """Those of the tests, and attacks in every container."""
    found: dict[str, Maker] = {}
    for (name, attack), protocol in itertools.product(ATTACKS.items(), (2, 4)):
        found[f"{name}, protocol {protocol}"] = partial(_write_attack, attack, protocol, True)
    for name, attack in ATTACKS.items():
        found[f"{name}, old"] = partial(_write_attack, attack, 2, False)
        found[f"{name}, bare"] = partial(_write_bare, attack)
    groups: list[dict[str, Any]] = [hostile.REFUSED, hostile.UNFIT, hostile.FOREIGN, hostile.SPECIAL]
    for group in groups:
        found |= {name: one[0] if isinstance(one, tuple) else one for name, one in group.items()}
    return {name: maker for name, maker in found.items() if name not in TOLD_BY_READING}


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """Every file with every command; the first ones are all files, with the commands in turns."""
    names, commands = list(makers()), [*COMMANDS, COMPARISON]
    for shift in range(len(commands)):
        for number, name in enumerate(names):
            command = commands[(number + shift) % len(commands)]
            yield Case(f"{command}: {name}", partial(given, name, command, f"{shift}-{number}"))


def given(name: str, command: str, number: str, place: Place) -> Outcome:
    """A hostile file for a command, or among good ones."""
    outcome, fixtures = Outcome(), place.fixtures
    with place.case(f"hostile-{number}") as root:
        (root / "in").mkdir()
        file = makers()[name](root / "in")
        before = {path.name for path in root.iterdir()}
        if command == COMPARISON:
            shutil.copy(fixtures.ckpts / "can-1" / "step-00004.safetensors", root / "in" / "good.safetensors")
            shutil.copytree(fixtures.tiny.parent / "tokenizer", root / "in" / "tokenizer", dirs_exist_ok=True)
            called = words("txt2img", "-c", root / "in", "-v", 1, "-o", "out", "--no-base")
        else:
            called = words(*COMMANDS[command](fixtures, file))
        patches = {"ldm.commands.train.publish:ROOT": root} if command == "publish" else {}
        began = time.monotonic()
        ended = run(Work(called[0], called[1:], patches), root, timeout=60)
        seconds = time.monotonic() - began
        outcome.failures += untold(ended)
        if command == COMPARISON:
            if ended.status != 0 or (file.name not in ended.said and file.suffix in (".ckpt", ".safetensors")):
                outcome.failures.append(f"status {ended.status}, or the file is not named: {last_lines(ended)}")
        else:
            if ended.status != 2 or file.name not in ended.said:
                outcome.failures.append(f"status {ended.status}, or the file is not named: {last_lines(ended)}")
            if made := {path.name for path in root.iterdir()} - before:
                outcome.failures.append(f"it has made {', '.join(sorted(made))}")
        if seconds > AT_ONCE:
            outcome.failures.append(f"it took {seconds:.0f} s")
        if any(root.rglob(MARKER)):
            outcome.failures.append("its code was run")
        outcome.counts.update({"files": 1, command: 1})
        return told(outcome, root, [f"$ {called}\n{ended.said}"])


def _write_attack(attack: Callable[[Path], Any], protocol: int, zipped: bool, directory: Path) -> Path:
    path, tensors = directory / "model.ckpt", {**few_tensors(), "model.diffusion_model.x": attack(directory / MARKER)}
    torch.save({"state_dict": tensors}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


def _write_bare(attack: Callable[[Path], Any], directory: Path) -> Path:
    path = directory / "model.ckpt"
    path.write_bytes(pickle.dumps(attack(directory / MARKER)))
    return path


HOSTILE = Part("hostile", "a hostile file, given to a command", "files", 400, 10, cases)

"""Command lines that chance has typed: whatever they say, there is an answer, and a mistake leaves nothing behind."""

import argparse
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.campaigns.cases import Case, Outcome, Part, told
from benchmarks.campaigns.chains import last_lines, untold
from benchmarks.campaigns.place import Place
from benchmarks.campaigns.running import Work, run
from benchmarks.campaigns.scenes import Fixtures
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.commands.options.sampling import evaluate_parser, img2img_parser, txt2img_parser
from ldm.commands.options.train import FLAGS_OF_STAGE, train_parser
from ldm.interruption import STATUS

PARSERS = {
    "txt2img": txt2img_parser,
    "img2img": img2img_parser,
    "evaluate": evaluate_parser,
    "dreambooth": dreambooth_parser,
    "train": train_parser,
}
STATUSES = {0, 2, STATUS}
"""Those that are documented."""
BEGUN = ("run: ", "continue with")
"""What is said once something is made: from then on it stays."""

ODD = (
    *("", " ", "0", "1", "2", "-1", "3.5", "1e9", "1e400", "nan", "inf", "-inf", "0x10", "1_0", "\u0663", "9" * 40),
    *("auto", "cpu", "cuda", "cuda:7", "mps", "cpu,cpu,", ",", "none", "true", "full", "{class}", "{", "sks", "a\nb"),
    *("\x1b[2J", "\u202e", "\U0001f600", "caf\u00e9", "a/b", "..", "/", "/dev/null", "/dev/zero", "/proc/self/mem"),
    *("nowhere/at/all", "x" * 300, "-", "--", "=1+1", "%s", "*", "~", "con", "\udce9"),
)
"""Values that somebody, or some script, has typed once."""
SMALL = {
    "txt2img": ("-v", "1", "--ddim-steps", "1", "-b", "1"),
    "img2img": ("-v", "1", "--ddim-steps", "1", "-b", "1"),
    "evaluate": ("-v", "1", "--ddim-steps", "1", "-p", "a photo of sks can"),
    "dreambooth": ("--iterations", "1", "--class-img-count", "1", "--no-previews"),
    "train": (
        "--iterations",
        "1",
    ),
}
"""What comes first, so that what is right is done soon. What chance adds goes before it."""


def likely(name: str, fixtures: Fixtures) -> list[str]:
    """Values that are right for a flag, or nearly."""
    paths = [fixtures.photos, fixtures.photos / "0.png", fixtures.tiny, fixtures.ckpts, fixtures.images]
    paths += [fixtures.things, fixtures.config, fixtures.trained("autoencoder"), fixtures.ckpts / "can-1"]
    if name.endswith(("dir", "path", "img", "config", "base", "autoencoder")):
        return [*map(str, paths), "out", "."]
    return ["1", "2", "3", "0.5", "32", "64", "can", "water bottle", "a photo of sks {class}", "cpu", "cpu,cpu"]


def command_line(chance: random.Random, fixtures: Fixtures) -> list[str]:
    """A command and flags; most of them are nearly right, because a line with one mistake goes furthest."""
    command = chance.choice(list(PARSERS))
    parser = PARSERS[command]()
    words = [command, *([chance.choice(list(FLAGS_OF_STAGE))] if command == "train" else [])]
    if chance.random() < 0.9:
        words += _needed(command, fixtures)
    words += SMALL[command] if words[1:2] not in (["tokenizer"], ["publish"]) else []
    actions = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    for action in chance.sample(actions, chance.choice((0, 1, 1, 2, 3))):
        words += _typed(action, chance, fixtures)
    if chance.random() < 0.05:
        words.insert(chance.randrange(1, len(words) + 1), chance.choice((*ODD, "--help", "--no-such-flag")))
    return [*words, "-o", "out"] if words[1:2] not in (["tokenizer"], ["publish"]) else words


def _needed(command: str, fixtures: Fixtures) -> list[str]:
    flags = {
        "txt2img": ("-c", fixtures.tiny),
        "img2img": ("-c", fixtures.tiny, "-i", fixtures.photos / "0.png"),
        "evaluate": ("-c", fixtures.ckpts, "--encoder", "toyworld-judge"),
        "dreambooth": ("-c", "can", "-i", fixtures.photos, "--ckpt-path", fixtures.tiny),
        "train": ("-i", fixtures.images, "--config", fixtures.config),
    }
    return list(map(str, flags[command]))


def _typed(action: argparse.Action, chance: random.Random, fixtures: Fixtures) -> list[str]:
    flag = chance.choice(action.option_strings)
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return [flag]
    good = [*map(str, action.choices)] if action.choices else likely(action.dest, fixtures)
    count = chance.choice((1, 1, 1, 2, 3)) if action.nargs in ("+", "*") else 1
    return [flag, *(chance.choice(good if chance.random() < 0.6 else ODD) for _ in range(count))]


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """As many as are wanted."""
    for number in range(count):
        yield Case(f"{number:04d}-{seed}", partial(typed, f"{seed}-{number}"))


def typed(seed: str, place: Place) -> Outcome:
    """One command line."""
    outcome, fixtures = Outcome(), place.fixtures
    command, *given = command_line(random.Random(seed), fixtures)
    with place.case(f"commands-{seed}") as root:
        patches = {"ldm.commands.train.publish:ROOT": root, "ldm.commands.train.tokenizer:ROOT": root}
        ended = run(Work(command, tuple(given), patches if command == "train" else {}), root, timeout=120)
        outcome.failures += untold(ended)
        if ended.status not in STATUSES:
            outcome.failures.append(f"status {ended.status}: {last_lines(ended)}")
        made = sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
        if ended.status == 2 and made and not any(words in ended.said for words in BEGUN):
            outcome.failures.append(f"refused, but it has made {', '.join(made)[:300]}: {last_lines(ended)}")
        if any(Path(name).suffix in (".partial", ".tmp") for name in made):
            outcome.failures.append(f"left over: {', '.join(made)}")
        outcome.counts.update({"command lines": 1, f"{command}.py": 1, f"status {ended.status}": 1})
        return told(outcome, root, [f"$ {[command, *given]}\n{ended.said}\nstatus {ended.status}"])


COMMANDS = Part("commands", "a random command line", "command lines", 1000, 24, cases)

"""Random command lines: whatever they say, there is an answer, and a mistake leaves nothing behind."""

import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.reliability_campaign.cases import Case, Outcome, Part, told
from benchmarks.reliability_campaign.chains import last_lines, untold
from benchmarks.reliability_campaign.place import Place
from benchmarks.reliability_campaign.running import Running, Work
from ldm.interruption import STATUS
from tests.commands.random_commands import Files, random_command_line

STATUSES = {0, 2, STATUS}
"""Those that are documented."""
LONG = 60.0
"""Seconds after which a command that has much to do is asked to stop."""
BEGUN = ("run: ", "continue with")
"""Logged once a run has begun: from then on its files stay."""


def cases(place: Place, count: int, seed: int) -> Iterator[Case]:
    """So many of them."""
    for number in range(count):
        yield Case(f"{number:04d}-{seed}", partial(typed, f"{seed}-{number}"))


def typed(seed: str, place: Place) -> Outcome:
    """One command line."""
    outcome, fixtures = Outcome(), place.fixtures
    sources = fixtures.ckpts, fixtures.images, fixtures.things, fixtures.config, fixtures.trained("autoencoder")
    command, *given = random_command_line(random.Random(seed), Files(fixtures.tiny, fixtures.photos, *sources))
    with place.case(f"commands-{seed}") as root:
        patches = {"ldm.commands.train.publish:ROOT": root, "ldm.commands.train.tokenizer:ROOT": root}
        running = Running(Work(command, tuple(given), patches if command == "train" else {}), root)
        since = time.monotonic()
        running.wait_until(lambda: time.monotonic() > since + LONG)
        if running.poll() is None:  # such as 20,000 images, or all checkpoints below /
            running.send(signal.SIGTERM)
            outcome.counts["stopped after a minute"] += 1
        ended = running.end()
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

"""Cases, their outcomes, and the file of outcomes, for all parts."""

import json
import math
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reliability_campaign.place import Place
from benchmarks.tools.reporting import say


@dataclass
class Outcome:
    """The outcome of a case: counts, and failures."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """One trial; its name is the same in all campaigns with the same seed."""

    name: str
    run: Callable[[Place], Outcome]


@dataclass(frozen=True)
class Part:
    """A part of the campaign: cases until a count is reached."""

    name: str
    what: str
    """Its description in the table."""
    unit: str
    """The count that measures its progress."""
    whole: int
    quick: int
    cases: Callable[[Place, int, int], Iterator[Case]]
    """From the place, the count and the seed."""
    to_the_end: bool = False
    """A whole campaign runs all of its cases; `whole` is their least count."""


class Ledger:
    """One line of JSON per case; a case with a line is not run again with the same code."""

    def __init__(self, path: Path, code: str) -> None:
        self.path = path
        self.code = code
        self._lock = threading.Lock()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.entries = [entry for line in lines if (entry := json.loads(line))["code"] == code]
        self._done = {(entry["part"], entry["case"]) for entry in self.entries}

    def has(self, part: str, case: str) -> bool:
        """Whether it has a line."""
        return (part, case) in self._done

    def add(self, part: str, case: str, outcome: Outcome, seconds: float) -> None:
        """Writes a line at once."""
        entry = {"code": self.code, "part": part, "case": case, "time": time.strftime("%Y-%m-%d")}
        entry |= {"seconds": round(seconds, 2), "counts": dict(outcome.counts), "failures": outcome.failures}
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            self.entries.append(entry)
            self._done.add((part, case))

    def counts(self, part: str) -> Counter[str]:
        """The counts of a part."""
        total: Counter[str] = Counter()
        for entry in self.entries:
            if entry["part"] == part:
                total.update(entry["counts"])
        return total

    def failures(self, part: str) -> list[str]:
        """The failures of a part."""
        return [
            f"{entry['case']}: {line}" for entry in self.entries if entry["part"] == part for line in entry["failures"]
        ]


def run_part(part: Part, place: Place, ledger: Ledger, count: int, seed: int, workers: int) -> None:
    """Runs cases side by side until `count` is reached or there are no more."""
    most = math.inf if part.to_the_end and count >= part.whole else count
    cases = (case for case in part.cases(place, count, seed) if not ledger.has(part.name, case.name))
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(running) < workers and ledger.counts(part.name)[part.unit] < most:
                if (case := next(cases, None)) is None:
                    break
                running.add(pool.submit(_run_case, part, case, place, ledger))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()


def _run_case(part: Part, case: Case, place: Place, ledger: Ledger) -> None:
    began = time.monotonic()
    try:
        outcome = case.run(place)
    except Failed as failed:
        outcome = failed.outcome
    except Exception:  # the campaign continues; the table shows that this case has no result
        outcome = Outcome(failures=[f"the campaign itself failed: {traceback.format_exc()}"])
    seconds = time.monotonic() - began
    ledger.add(part.name, case.name, outcome, seconds)
    counted = ", ".join(f"{number} {name}" for name, number in outcome.counts.items())
    say(f"{part.name} {case.name}: {counted or 'nothing'} in {seconds:.1f} s")
    for failure in outcome.failures:
        say(f"  FAILED: {failure}")


class Failed(Exception):  # noqa: N818
    """Ends a case whose directory is kept."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.failures)
        self.outcome = outcome


def told(outcome: Outcome, root: Path, said: list[str]) -> Outcome:
    """The outcome. If it failed, the processes' output is written beside the case's directory, which is kept."""
    if outcome.failures:
        (root.parent / "output.txt").write_text("\n----\n".join(said), encoding="utf-8", errors="replace")
        raise Failed(outcome)
    return outcome

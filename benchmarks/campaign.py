"""What are the figures of this machine's GPU? Runs every benchmark that needs one, in the order of its worth.

    python benchmarks/campaign.py --budget 480           # seconds in all
    python benchmarks/campaign.py --plan                 # what would run, and for how long
    python benchmarks/campaign.py --report               # writes the tables into the documentation
    python benchmarks/campaign.py --smoke                # every line on the CPU, at its smallest: no figures

Each question runs in its own process. Its output, its figures and a line in RESULTS/results.jsonl are on the disk as
soon as they exist. A question that is answered is not asked again by the same code, so an interrupted campaign goes on.
One that no longer fits into the budget is left out; one that takes twice its share is stopped. The exit status is 1 if
a question has failed. benchmarks/README.md says what a machine without a network needs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.questions import QUESTIONS, Question  # noqa: E402
from benchmarks.tools.reporting import say, table, write_between  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.commands.options.common import number  # noqa: E402
from ldm.errors import UserError  # noqa: E402

DONE, FAILED, STOPPED = "done", "failed", "stopped"
SMOKE_LIMIT = 3600
"""Seconds for every line on a slow CPU."""
GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
LAST_LINES = 5
"""Of a failed question's output, which are printed."""


class Ledger:
    """A line of JSON per question that was asked: how it ended, its seconds, command, machine and tables."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "results.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.entries: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def answer(self, name: str, code: str | None = None, *, smoke: bool = False) -> dict[str, Any] | None:
        """The latest line of an answered question, of this code if it is given."""
        found = [one for one in self.entries if (one["question"], one["status"], one["smoke"]) == (name, DONE, smoke)]
        return next((one for one in reversed(found) if code in (None, one["code"])), None)

    def add(self, entry: dict[str, Any]) -> None:
        """Writes a line at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.entries.append(entry)


def ask(question: Question, directory: Path, seconds: float, *, smoke: bool) -> tuple[str, str]:
    """Runs a question's script for so many seconds at most: how it ended, and what it printed."""
    words = [*question.words(smoke=smoke), *question.figures(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    output = directory / f"{question.name}.txt"
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = DONE if process.wait(seconds) == 0 else FAILED
        except subprocess.TimeoutExpired:
            status = STOPPED
        finally:
            _end(process)
    return status, output.read_text(encoding="utf-8", errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process with all that it has started, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def tables(output: str) -> str:
    """The Markdown tables of an output."""
    lines = output.splitlines()
    parts: list[list[str]] = []
    for previous, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            if not previous.startswith("|"):
                parts.append([])
            parts[-1].append(line)
    return "\n\n".join("\n".join(part) for part in parts)


def campaign(questions: Sequence[Question], ledger: Ledger, budget: float, *, smoke: bool) -> int:
    """Asks what is not answered yet and fits into the budget; the exit status."""
    from benchmarks.tools.machine import machine
    from ldm.commands.record import versions

    start, code, failed = time.monotonic(), versions().get("commit", "unknown"), False
    where = {"machine": machine(), "gpu": _gpu(), "smoke": smoke}
    for question in questions:
        left = budget - (time.monotonic() - start)
        if ledger.answer(question.name, code, smoke=smoke):
            say(f"{question.name}: answered before")
            continue
        if left < question.seconds and not smoke:
            say(f"{question.name}: left out; it takes about {question.seconds} s, and {max(left, 0):.0f} s are left")
            continue
        limit = left if smoke else min(left, 2 * question.seconds)
        say(f"{question.name}: python {' '.join(question.words(smoke=smoke))}")
        began = time.monotonic()
        status, output = ask(question, ledger.directory, limit, smoke=smoke)
        seconds = round(time.monotonic() - began, 1)
        command = ["python", *question.words(smoke=smoke)]
        entry = {"question": question.name, "code": code, "status": status, "seconds": seconds, "command": command}
        ledger.add({**entry, "date": time.strftime("%Y-%m-%d"), **where, "tables": tables(output)})
        say(f"{question.name}: {status} after {seconds} s")
        if status == DONE:
            say(tables(output) + "\n")
        else:
            failed = failed or status == FAILED
            say("\n".join(f"    {line}" for line in output.splitlines()[-LAST_LINES:]))
    return int(failed)


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def plan(questions: Sequence[Question], budget: float) -> str:
    """What would run, in order, with its share and the seconds until it is done."""
    rows, total = [], 0
    for question in questions:
        fits = total + question.seconds <= budget
        total += question.seconds if fits else 0
        command = f"`python {' '.join(question.words(smoke=False))}`"
        rows.append([question.name, question.seconds, total if fits else "left out", command])
    return table(["question", "seconds", "done after", "command"], rows)


def report(ledger: Ledger, questions: Sequence[Question], root: Path) -> None:
    """Writes the answers' tables into the pages. Raises `UserError` if there is no answer from a GPU."""
    answers = [(one, entry) for one in questions if (entry := ledger.answer(one.name))]
    if not any(entry["gpu"] for _, entry in answers):
        raise UserError(f"{ledger.path} has no answers that were measured on a GPU; the pages are left as they are")
    for page in dict.fromkeys(question.page for question, _ in answers if question.page):
        parts = [_section(question, entry) for question, entry in answers if question.page == page]
        write_between(root / page, "\n" + "\n".join(parts))
    names = ", ".join(dict.fromkeys(entry["gpu"] for _, entry in answers))
    write_between(root / "README.md", f"Measured on {names}: [docs/performance.md](docs/performance.md#on-a-gpu).")


def _section(question: Question, entry: dict[str, Any]) -> str:
    where = f"{entry['gpu']}; {entry['machine']}; {entry['date']}"
    return f"### {question.title}\n\n{where}\n\n```bash\n{' '.join(entry['command'])}\n```\n\n{entry['tables']}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plans, asks or reports."""
    parser = script_parser(__doc__, targets=False, json=False)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    action.add_argument("--smoke", action="store_true", help="run everything on the CPU at its smallest")
    action.add_argument(
        "--report", action="store_true", help="write the tables into the documentation, and run nothing"
    )
    parser.add_argument(
        "--budget", type=number(int, 1), default=480, help="seconds in all, but for --smoke (default: 480)"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "outputs" / "campaign", help="default: outputs/campaign")
    names = [question.name for question in QUESTIONS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="QUESTION", help=f"of {', '.join(names)}")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    questions = [question for question in QUESTIONS if not options.only or question.name in options.only]
    if options.plan:
        say(plan(questions, options.budget))
        return 0
    if not (options.smoke or options.report or _gpu()):
        raise UserError(
            "this machine has no CUDA device; --smoke runs everything on the CPU, --plan shows what would run"
        )
    options.results.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(options.results.resolve())
    if options.report:
        report(ledger, questions, options.root)
        return 0
    return campaign(questions, ledger, SMOKE_LIMIT if options.smoke else options.budget, smoke=options.smoke)


if __name__ == "__main__":
    run_script(main)

"""Results of a benchmark: tables, targets, files of figures."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm.errors import UserError
from ldm.files import write_text

BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"
"""A page has a campaign's results between these."""


@dataclass(frozen=True)
class Target:
    """A figure and its least, or largest, desired value."""

    name: str
    value: float
    limit: float
    unit: str = "%"
    at_most: bool = False

    @property
    def met(self) -> bool:
        """An unknown figure misses its target."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{self.name}: {self.value:.1f} {self.unit}, should be {sign} {self.limit:g} {self.unit}"


def verdict(targets: Sequence[Target], strict: bool) -> int:
    """Prints the missed targets; returns the exit status, 1 if there are any and `strict`."""
    missed = [str(target) for target in targets if not target.met]
    say(
        f"\nTargets: {len(targets) - len(missed)} of {len(targets)} met."
        + "".join(f"\n- missed: {line}" for line in missed)
    )
    return 1 if missed and strict else 0


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def write_between(page: Path, text: str) -> None:
    """Puts the text between the page's markers. Raises `UserError` if it hasn't both of them once."""
    content = page.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise UserError(f"{page} should have {BEGIN} and {END} once each")
    before, after = content.split(BEGIN)[0], content.split(END)[1]
    write_text(page, f"{before}{BEGIN}{text}{END}{after}")


def say(text: str) -> None:
    """To the terminal, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_json(path: Path | None, figures: object) -> None:
    """Writes the figures, if a file is given; counts and means become objects."""
    if path:
        write_text(path, json.dumps(figures, indent=1, default=vars) + "\n")

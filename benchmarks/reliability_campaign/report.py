"""The results of the campaign, as a table and on the page."""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.reliability_campaign.cases import Ledger
from benchmarks.reliability_campaign.parts import PARTS
from benchmarks.tools.reporting import table, write_between
from ldm.commands.record import versions
from ldm.errors import UserError


def summary(ledger: Ledger, names: Iterable[str], wanted: Mapping[str, int]) -> str:
    """The parts' counts, and all failures."""
    rows = [_row(ledger, name, f"{ledger.counts(name)[PARTS[name].unit]} of {wanted[name]}") for name in names]
    failures = [f"- {name}: {line}" for name in names for line in ledger.failures(name)]
    said = table(["part", "what is counted", "done", "cases", "minutes", "did not hold"], rows)
    return said + ("\nDid not hold:\n" + "\n".join(failures) + "\n" if failures else "")


def write_report(page: Path, ledger: Ledger) -> None:
    """Puts the counts of the whole campaign between the page's markers. Raises `UserError` if it isn't whole."""
    missing = [name for name, part in PARTS.items() if ledger.counts(name)[part.unit] < part.whole]
    if missing:
        raise UserError(f"the campaign is not whole: {', '.join(missing)}; the page is left as it is")
    write_between(page, f"\n{report(ledger)}")


def report(ledger: Ledger) -> str:
    """When, with what, the counts of each part, and by kind."""
    last = max(entry["time"] for entry in ledger.entries)
    found = versions()
    commit = found.get("commit", "unknown")
    with_what = f"Python {found['python']}, torch {found.get('torch', 'unknown')}, {platform.system()}"
    rows = [_row(ledger, name, str(ledger.counts(name)[part.unit])) for name, part in PARTS.items()]
    kinds = [
        (name, kind, number)
        for name, part in PARTS.items()
        for kind, number in sorted(ledger.counts(name).items())
        if kind != part.unit
    ]
    return (
        f"Last run whole on {last}, commit `{commit}` ({with_what}).\n\n"
        + table(["part", "what is counted", "done", "cases", "minutes", "did not hold"], rows)
        + "\n<details><summary>By kind</summary>\n\n"
        + table(["part", "kind", "count"], kinds)
        + "\n</details>\n"
    )


def _row(ledger: Ledger, name: str, done: str) -> tuple[object, ...]:
    entries = [entry for entry in ledger.entries if entry["part"] == name]
    minutes = sum(entry["seconds"] for entry in entries) / 60
    failed = Counter(bool(entry["failures"]) for entry in entries)[True]
    return name, PARTS[name].what, done, len(entries), f"{minutes:.1f}", failed

"""Is what docs/reliability.md promises kept, when it is tried hard?

    python benchmarks/reliability.py --all                       # everything, 2:15 hours on two busy cores
    python benchmarks/reliability.py --quick                     # a few cases of each part
    python benchmarks/reliability.py kills --count 50 --seed 3   # one part
    python benchmarks/reliability.py --all --report              # and writes the counts into docs/reliability.md

Commands run on models that train within a second, in forks of a process that has imported torch. What came of each case
is a line in --results; what stands there is not run again with the same code, so an interrupted campaign goes on. The
directory of a case that fails is kept, with what was said, in --work. Exit status 1 if anything did not hold.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reliability_campaign.cases import Ledger, run_part  # noqa: E402
from benchmarks.reliability_campaign.parts import PARTS  # noqa: E402
from benchmarks.reliability_campaign.place import Place  # noqa: E402
from benchmarks.reliability_campaign.report import summary, write_report  # noqa: E402
from benchmarks.tools.reporting import say  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.errors import UserError  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts and prints the table."""
    parser = script_parser(__doc__, targets=False, json=False)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--all", action="store_true", help="all parts")
    parser.add_argument("--quick", action="store_true", help="a few cases of each part")
    parser.add_argument("--count", type=int, help="how many of what a part counts (default: the part's)")
    parser.add_argument("--seed", type=int, default=0, help="other cases (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="cases at a time (default: 2)")
    parser.add_argument("--work", type=Path, default=Path("outputs/reliability"), help="where it works")
    parser.add_argument("--results", type=Path, help="lines of JSON (default: WORK/results.jsonl)")
    parser.add_argument("--keep", action="store_true", help="keep the directories of all cases")
    parser.add_argument("--report", action="store_true", help="write the counts of the whole campaign into the page")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (default: docs/reliability.md)")
    options = parser.parse_args(arguments)

    if unknown := [name for name in options.parts if name not in PARTS]:
        raise UserError(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    names = list(PARTS) if options.all or (options.quick and not options.parts) else options.parts
    if not names and not options.report:
        raise UserError("name a part, or --all, or --quick")
    place = Place(options.work.resolve(), options.keep)
    ledger = Ledger((options.results or options.work / "results.jsonl").resolve(), place.code)
    wanted = {name: options.count or (PARTS[name].quick if options.quick else PARTS[name].whole) for name in PARTS}
    for name in names:
        run_part(PARTS[name], place, ledger, wanted[name], options.seed, options.workers)
    say(summary(ledger, names or list(PARTS), wanted))
    if options.report:
        write_report(options.page, ledger)
    return int(any(ledger.failures(name) for name in names))


if __name__ == "__main__":
    run_script(main)

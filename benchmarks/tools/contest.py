"""The frame of the benchmarks against diffusers: their flags, taking turns, peaks, lines of JSON, the machine."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.tools.common import Goal, machine, say
from benchmarks.tools.measuring import Spread, Turn, take_turns
from benchmarks.tools.peaks import Peak, held, peak_in_own_process, peak_of, print_peak
from benchmarks.tools.sizes import SIZES, Size
from ldm.commands.placement import Compute, drawing_compute, parse_device
from ldm.commands.record import versions
from ldm.errors import UserError
from ldm.files import write_text

PEERS = ("diffusers", "transformers", "accelerate", "bitsandbytes")

Build = Callable[[], Turn]
"""Makes a contender ready; what that takes doesn't count."""


@dataclass(frozen=True)
class Place:
    """What is measured on."""

    size: Size
    compute: Compute
    runs: int
    warmup: int
    peaks: bool

    @property
    def device(self) -> torch.device:
        """The one device."""
        return self.compute.device

    @property
    def precision(self) -> str:
        """Of the weights while drawing, of the arithmetic while training."""
        return str(self.compute.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Result:
    """Of one contender."""

    seconds: Spread
    peak: Peak | str
    """GiB, or why it isn't known."""


def contest_parser(description: str | None, takes_turns: bool = True, peaks: bool = True) -> argparse.ArgumentParser:
    """The flags that all of them have, with those of times (`takes_turns`), peaks of memory (`peaks`), or both."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full", help="of the model and its pictures (default: full)")
    parser.add_argument("--device", default="auto", help="cpu or a CUDA device (default: auto)")
    parser.add_argument(
        "--precision", choices=("auto", "full", "bf16", "fp16"), default="auto", help="default: bf16 on CUDA, else full"
    )
    if takes_turns:
        parser.add_argument("--runs", type=int, default=5, help="of each contender (default: 5)")
        parser.add_argument("--warmup", type=int, default=1, help="runs before, which don't count (default: 1)")
    parser.add_argument("--json", type=Path, help="write a line of JSON for each contender to this file")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a goal is missed")
    if peaks and takes_turns:
        parser.add_argument("--no-peaks", action="store_true", help="don't measure memory, which takes a process each")
    if peaks:
        parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser


def place_from(options: argparse.Namespace) -> Place:
    """From the flags of `contest_parser`."""
    runs, warmup = getattr(options, "runs", 1), getattr(options, "warmup", 0)
    if runs < 1 or warmup < 0:
        raise UserError("--runs should be at least 1 and --warmup at least 0")
    device = parse_device(options.device)
    compute = drawing_compute(device, options.precision)
    return Place(SIZES[options.size], compute, runs, warmup, peaks=not getattr(options, "no_peaks", True))


def announce(place: Place) -> None:
    """Says what is measured, where and with which versions."""
    say(f"{where(place)}\nmodel: {place.size.name}, {place.size.pixels} x {place.size.pixels}, {place.precision}\n")


def where(place: Place) -> str:
    """The machine, its GPU if one is used, and the versions of both sides."""
    gpu = f", {torch.cuda.get_device_name(place.device)}" if place.device.type == "cuda" else ""
    return f"{machine()}{gpu}, " + ", ".join(f"{name} {number}" for name, number in peer_versions().items())


def peer_versions() -> dict[str, str]:
    """Of those packages of the other side that are installed."""
    found = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run_contests(
    contests: Mapping[str, Mapping[str, Build]], place: Place, again: Sequence[str]
) -> dict[str, dict[str, Result]]:
    """By case and contender. Those of one case take turns; `again` is the command line that runs this script again.

    Raises `UserError` if the first of a case, with which the others are compared, doesn't fit into memory.
    """
    results: dict[str, dict[str, Result]] = {}
    for case, builds in contests.items():
        seconds = take_turns({name: build() for name, build in builds.items()}, place.runs, place.warmup)
        if (first := next(iter(builds))) not in seconds:
            raise UserError(
                f"{case}: {first} doesn't fit into the device's memory, and the others are compared with it"
            )
        peaks = {
            name: peak_in_own_process(again[0], f"{case}/{name}", again[1:]) if place.peaks else "-" for name in seconds
        }
        results[case] = {name: Result(seconds[name], peaks[name]) for name in seconds}
    return results


def measure_peak(contests: Mapping[str, Mapping[str, Build]], place: Place, which: str, before: float) -> None:
    """In a process of its own: prints the peak of the contender `case/name` above `before`, what was held at first."""
    case, name = which.split("/", 1)
    turn = contests[case][name]()
    print_peak(peak_of(turn, place.device, before))


def held_at_first(place: Place) -> float:
    """GiB, before anything is built."""
    return held(place.device)


def peak_goals(case: str, ours: Result, theirs: Result) -> list[Goal]:
    """Not more memory than the other, if both are known."""
    if not isinstance(ours.peak, Peak) or not isinstance(theirs.peak, Peak):
        return []
    share = 100 * ours.peak.allocated / theirs.peak.allocated
    return [Goal(f"{case}, of the other's peak of memory", share, 100, at_most=True)]


def write_lines(path: Path | None, question: str, place: Place, lines: Sequence[Mapping[str, Any]]) -> None:
    """A line of JSON for each, with all that is needed to read it alone."""
    if not path:
        return
    shared = {
        "question": question,
        "size": place.size.name,
        "precision": place.precision,
        "machine": where(place),
        "versions": versions() | peer_versions(),
    }
    write_text(path, "".join(json.dumps({**shared, **line}, default=_plain) + "\n" for line in lines))


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, Spread) else vars(value)


def command_line(script: str, arguments: Sequence[str] | None) -> list[str]:
    """The script and its arguments as they were given."""
    return [script, *(sys.argv[1:] if arguments is None else arguments)]

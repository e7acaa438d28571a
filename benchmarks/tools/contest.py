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

from benchmarks.tools.machine import machine
from benchmarks.tools.measuring import Spread, Turn, take_turns
from benchmarks.tools.peaks import Peak, held, peak_in_own_process, peak_of, print_peak
from benchmarks.tools.reporting import Target, say, verdict
from benchmarks.tools.script import script_parser
from benchmarks.tools.sizes import SIZES, Size
from ldm.commands.record import versions
from ldm.errors import UserError
from ldm.files import write_text
from ldm.runtime.devices import Compute, parse_device, sampling_compute

PEERS = ("diffusers", "transformers", "accelerate", "bitsandbytes")

Build = Callable[[], Turn]
"""Prepares a contender; this is not timed."""


@dataclass(frozen=True)
class Place:
    """Device and sizes of the measurement."""

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
        """Of the weights in sampling, of the arithmetic in training."""
        return str(self.compute.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Result:
    """Of one contender."""

    seconds: Spread
    peak: Peak | str
    """GiB, or why it is unknown."""


def contest_parser(description: str | None, takes_turns: bool = True, peaks: bool = True) -> argparse.ArgumentParser:
    """The flags that all of them have, with those of times (`takes_turns`), peaks of memory (`peaks`), or both."""
    parser = script_parser(description)
    parser.add_argument("--size", choices=SIZES, default="full", help="of the model and its images (default: full)")
    parser.add_argument("--device", default="auto", help="cpu or a CUDA device (default: auto)")
    parser.add_argument(
        "--precision", choices=("auto", "full", "bf16", "fp16"), default="auto", help="default: bf16 on CUDA, else full"
    )
    if takes_turns:
        parser.add_argument("--runs", type=int, default=5, help="of each contender (default: 5)")
        parser.add_argument("--warmup", type=int, default=1, help="untimed runs before (default: 1)")
    if peaks and takes_turns:
        parser.add_argument(
            "--no-peaks", action="store_true", help="do not measure memory, which takes a process for each"
        )
    if peaks:
        parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser


def place_from(options: argparse.Namespace) -> Place:
    """From the flags of `contest_parser`."""
    runs, warmup = getattr(options, "runs", 1), getattr(options, "warmup", 0)
    if runs < 1 or warmup < 0:
        raise UserError("--runs should be at least 1 and --warmup at least 0")
    device = parse_device(options.device)
    compute = sampling_compute(device, options.precision)
    return Place(SIZES[options.size], compute, runs, warmup, peaks=not getattr(options, "no_peaks", True))


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

    Raises `UserError` if the first of a case, with which the others are compared, does not fit into memory.
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


class ContestRun:
    """One call of a script: all contenders in turns, or one alone in its own process for its peak of memory."""

    def __init__(
        self, question: str, parser: argparse.ArgumentParser, script: str, arguments: Sequence[str] | None
    ) -> None:
        """Before anything is built; `arguments` are for the parser of `contest_parser`, by default the command line."""
        self.question = question
        self.options = parser.parse_args(arguments)
        self.place = place_from(self.options)
        self.peak_of: str | None = getattr(self.options, "peak_of", None)
        """`case/contender`, the only one to be built."""
        self._again = [script, *(sys.argv[1:] if arguments is None else arguments)]
        self._held_before = held(self.place.device)

    def announce(self) -> None:
        """Prints the measurement's device and versions."""
        place = self.place
        say(f"{where(place)}\nmodel: {place.size.name}, {place.size.pixels} x {place.size.pixels}, {place.precision}\n")

    def all_in_turns(self, contests: Mapping[str, Mapping[str, Build]]) -> dict[str, dict[str, Result]]:
        """See `run_contests`."""
        return run_contests(contests, self.place, self._again)

    def peak_alone(self, case: str, name: str) -> Peak | str:
        """The peak of one contender, by this script in a process of its own; or why there is none."""
        return peak_in_own_process(self._again[0], f"{case}/{name}", self._again[1:])

    def print_peak(self, contests: Mapping[str, Mapping[str, Build]]) -> int:
        """In that process: prints the peak of `peak_of` above what was held at first. The exit status."""
        assert self.peak_of is not None, "--peak-of names one contender"
        case, name = self.peak_of.split("/", 1)
        turn = contests[case][name]()
        print_peak(peak_of(turn, self.place.device, self._held_before))
        return 0

    def end(self, lines: Sequence[Mapping[str, Any]], targets: Sequence[Target]) -> int:
        """Writes a line of JSON for each contender and prints the missed targets. Returns the exit status."""
        write_lines(self.options.json, self.question, self.place, lines)
        return verdict(targets, self.options.strict)


def peak_targets(case: str, ours: Result, theirs: Result) -> list[Target]:
    """At most the other's memory, if both are known."""
    if not isinstance(ours.peak, Peak) or not isinstance(theirs.peak, Peak):
        return []
    return [Target(f"{case}, of the other's peak of memory", 100 * ours.peak.share_of(theirs.peak), 100, at_most=True)]


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

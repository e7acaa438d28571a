"""How much memory does training take at equal settings, ours and the reference's?

    python benchmarks/memory.py

Full fine-tuning of the UNet, one photo and one class image a step, two steps, each contender in a process of its own:
by default, with gradient checkpointing, with an 8-bit AdamW, and with both; the reference's 8-bit AdamW is that of
bitsandbytes and is left out where that is not installed. The last rows are our settings that the reference does not
offer. `profiles.py` measures the profiles that `--vram` chooses from: their predicted peaks and their cost in loss.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.diffusers_peer.training import ReferenceOptions  # noqa: E402
from benchmarks.tools.contest import Build, ContestRun, Place, contest_parser  # noqa: E402
from benchmarks.tools.measuring import digits  # noqa: E402
from benchmarks.tools.ours_training import CLASS_IMAGES, PHOTOS  # noqa: E402
from benchmarks.tools.peaks import Peak  # noqa: E402
from benchmarks.tools.photos import write_images  # noqa: E402
from benchmarks.tools.reporting import Target, say, table  # noqa: E402
from benchmarks.tools.script import run_script  # noqa: E402
from benchmarks.tools.sizes import build_random  # noqa: E402
from benchmarks.training_step import Contest  # noqa: E402

OURS, REFERENCE = "ours", "reference"
EQUAL: dict[str, tuple[dict[str, Any], ReferenceOptions]] = {
    "float32 weights, AdamW": ({}, ReferenceOptions(precomputed_text=True)),
    "and gradient checkpointing": (
        {"gradient_checkpointing": "all"},
        ReferenceOptions(precomputed_text=True, gradient_checkpointing=True),
    ),
    "float32 weights, 8-bit AdamW": (
        {"optimizer": "adamw8bit"},
        ReferenceOptions(precomputed_text=True, adam_8bit=True),
    ),
    "8-bit AdamW and gradient checkpointing": (
        {"optimizer": "adamw8bit", "gradient_checkpointing": "all"},
        ReferenceOptions(precomputed_text=True, adam_8bit=True, gradient_checkpointing=True),
    ),
}
ONLY_OURS: dict[str, dict[str, Any]] = {
    "bfloat16 weights, 8-bit AdamW": {"optimizer": "adamw8bit", "train_dtype": "bf16"},
    "bfloat16 weights, 8-bit AdamW, gradient checkpointing": {
        "optimizer": "adamw8bit",
        "train_dtype": "bf16",
        "gradient_checkpointing": "all",
    },
}


Setting = dict[str, Any] | ReferenceOptions
"""The changes of our configuration, or the reference's flags."""


def settings(place: Place) -> dict[str, dict[str, Setting]]:
    """By case and contender, those that are possible here."""
    has_8bit = place.device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
    found: dict[str, dict[str, Setting]] = {}
    for case, (changes, options) in EQUAL.items():
        theirs = {REFERENCE: options} if has_8bit or not options.adam_8bit else {}
        found[case] = {OURS: changes, **theirs}
    return found | {case: {OURS: changes} for case, changes in ONLY_OURS.items()}


def print_own_peak(run: ContestRun, directory: Path) -> int:
    """In its own process: builds the contender of `--peak-of`, trains two steps, prints the peak."""
    place = run.place
    photos = write_images(directory / "photos", PHOTOS, place.size.pixels)
    class_images = write_images(directory / "class", CLASS_IMAGES, place.size.pixels)
    ldm = build_random(place.size).to(place.device)
    contest = Contest(ldm, place, train_text_encoder=False, warmup=1, steps=1, alone=True)

    def build(setting: Setting) -> Build:
        if isinstance(setting, ReferenceOptions):
            return lambda: contest.reference(setting, photos, class_images)
        return lambda: contest.ours(**setting)

    builds = {case: {name: build(setting) for name, setting in some.items()} for case, some in settings(place).items()}
    return run.print_peak(builds)


def share(peaks: dict[str, Peak | str]) -> float | None:
    """Our peak as a share of the reference's, if both are known."""
    ours, theirs = peaks[OURS], peaks.get(REFERENCE)
    return ours.share_of(theirs) if isinstance(ours, Peak) and isinstance(theirs, Peak) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = contest_parser(__doc__, takes_turns=False)
    run = ContestRun("memory", parser, __file__, arguments)
    if run.peak_of:
        with tempfile.TemporaryDirectory() as directory:
            return print_own_peak(run, Path(directory))
    run.announce()
    peaks = {case: {name: run.peak_alone(case, name) for name in some} for case, some in settings(run.place).items()}
    rows, lines, targets = [], [], []
    for case, found in peaks.items():
        part = share(found)
        rows.append([case, found[OURS], found.get(REFERENCE, "-"), "-" if part is None else digits(part)])
        lines += [{"case": case, "contender": name, "peak": peak} for name, peak in found.items()]
        if part is not None:
            targets.append(Target(f"{case}: of the reference's peak", 100 * part, 100, at_most=True))
    say(table(["peak, GiB", OURS, REFERENCE, "ours / reference"], rows))
    return run.end(lines, targets)


if __name__ == "__main__":
    run_script(main)

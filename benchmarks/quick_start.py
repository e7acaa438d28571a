"""How much faster is the tiny model's quick start than a straightforward loop over the same networks, and by what?

    taskset -c 0,1 python benchmarks/quick_start.py

Two whole processes, in turns: `dreambooth.py` as the quick start types it, without previews, and
`tools/straightforward.py`, which does the same work without any optimization. Then both phases, sampling class images
and training steps, with all optimizations, with all but one, and with none: the seconds that each saves.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.commands import timed_run  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.measuring import Spread, digits, ratio, take_turns  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.straightforward import (  # noqa: E402
    NO_SAMPLING_OPTIMIZATIONS,
    NO_TRAINING_OPTIMIZATIONS,
    ClassImages,
    SamplingOptimizations,
    Training,
    TrainingOptimizations,
    load,
    photos_of,
)
from ldm.runtime.models import EMBEDDED  # noqa: E402
from ldm.training.dreambooth_config import Subject  # noqa: E402

CLASS_NAME, PHOTOS = "water bottle", ROOT / "data" / "bottle"
QUICK_START, STRAIGHTFORWARD = "quick start", "straightforward"
ALL, NONE = "all optimizations", "none"
GOAL = 1.5

Optimizations = TypeVar("Optimizations", SamplingOptimizations, TrainingOptimizations)


def variants(all_optimizations: Optimizations, none: Optimizations) -> dict[str, Optimizations]:
    """All, all but one, and none, by their titles."""
    but_one = {
        f"without: {field.name.replace('_', ' ')}": replace(all_optimizations, **{field.name: False})
        for field in fields(all_optimizations)
    }
    return {ALL: all_optimizations, **but_one, NONE: none}


def whole(options: argparse.Namespace, directory: Path) -> dict[str, Spread]:
    """Seconds of the two processes."""
    amount = {"--iterations": options.iterations} if options.iterations else {}
    amounts = {
        QUICK_START: amount | ({"--class-img-count": options.class_images} if options.class_images else {}),
        STRAIGHTFORWARD: amount | ({"--class-images": options.class_images} if options.class_images else {}),
    }
    flags = {name: [word for pair in more.items() for word in pair] for name, more in amounts.items()}
    weights = ["--ckpt-path", options.ckpt_path.resolve()]

    def quick_start() -> float:
        with tempfile.TemporaryDirectory(dir=directory) as output:
            typed = ["dreambooth.py", "-c", CLASS_NAME, "-i", PHOTOS, "-s", 200, "--no-previews", "-o", output]
            return timed_run(*typed, *weights, *flags[QUICK_START])

    def straightforward() -> float:
        with tempfile.TemporaryDirectory(dir=directory) as output:
            typed = ["benchmarks/tools/straightforward.py", "--photos", PHOTOS, "--class-name", CLASS_NAME]
            return timed_run(*typed, "--output", output, *weights, *flags[STRAIGHTFORWARD])

    return take_turns({QUICK_START: quick_start, STRAIGHTFORWARD: straightforward}, options.whole_runs, warmup=0)


def measure_sampling(options: argparse.Namespace, directory: Path) -> dict[str, Spread]:
    """Seconds of a class image with and without optimizations."""
    ldm, settings = load(options.ckpt_path)
    prompt = Subject(CLASS_NAME).class_prompt

    def turn(optimizations: SamplingOptimizations) -> float:
        images = ClassImages(ldm, settings, prompt, optimizations)
        began = time.perf_counter()
        images.write(directory / "class", options.images)
        return (time.perf_counter() - began) / options.images

    turns = {
        name: lambda optimizations=optimizations: turn(optimizations)
        for name, optimizations in variants(SamplingOptimizations(), NO_SAMPLING_OPTIMIZATIONS).items()
    }
    return take_turns(turns, options.runs)


def training(options: argparse.Namespace, directory: Path) -> dict[str, Spread]:
    """Seconds of an update with and without optimizations, after the first, on existing class images."""
    ldm, settings = load(options.ckpt_path)
    images = photos_of(PHOTOS), photos_of(directory / "class")

    def turn(optimizations: TrainingOptimizations) -> float:
        loop = Training(ldm, settings, Subject(CLASS_NAME), images, optimizations)
        loop.step()
        began = time.perf_counter()
        for _ in range(options.steps):
            loop.step()
        seconds = (time.perf_counter() - began) / options.steps
        loop.end()
        return seconds

    turns = {
        name: lambda optimizations=optimizations: turn(optimizations)
        for name, optimizations in variants(TrainingOptimizations(), NO_TRAINING_OPTIMIZATIONS).items()
    }
    return take_turns(turns, options.runs)


def report(what: str, times: dict[str, Spread], count: int) -> str:
    """A table: each variant's seconds, beside all optimizations, and its cost in the quick start's `count` of them."""
    fast = times[ALL]
    rows = [
        [name, spread, ratio(spread.values, fast.values), digits(count * (spread.median - fast.median))]
        for name, spread in times.items()
    ]
    return table([what, "seconds", "times as long", f"seconds more for {count}"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = script_parser(__doc__)
    parser.add_argument("--ckpt-path", type=Path, default=EMBEDDED, help="default: the embedded tiny model")
    parser.add_argument("--runs", type=int, default=5, help="of each phase (default: 5)")
    parser.add_argument("--whole-runs", type=int, default=1, help="of the two processes (default: 1)")
    parser.add_argument("--images", type=int, default=16, help="in each run (default: 16)")
    parser.add_argument("--steps", type=int, default=5, help="timed in each run (default: 5)")
    parser.add_argument("--iterations", type=int, help="of the two processes (default: the model's)")
    parser.add_argument("--class-images", type=int, help="of the two processes (default: the model's)")
    options = parser.parse_args(arguments)

    say(machine() + "\n")
    config = load(options.ckpt_path)[1].dreambooth
    with tempfile.TemporaryDirectory() as name:
        processes = whole(options, Path(name))
        faster = ratio(processes[STRAIGHTFORWARD].values, processes[QUICK_START].values)
        rows = [[QUICK_START, processes[QUICK_START], "-"], [STRAIGHTFORWARD, processes[STRAIGHTFORWARD], faster]]
        say(table(["whole process", "seconds", "times as long"], rows))
        images = measure_sampling(options, Path(name))
        say(report("class image", images, config.class_img_count))
        steps = training(options, Path(name))
        say(report("training step", steps, config.iterations))
    write_json(
        options.json, {"machine": machine(), "processes": processes, "class image": images, "training step": steps}
    )
    return verdict([Target("times as fast as the straightforward loop", faster.median, GOAL, "x")], options.strict)


if __name__ == "__main__":
    run_script(main)

"""How long does the quick start take with the embedded tiny model? Whole processes, with their start-up.

    taskset -c 0,1 python benchmarks/tiny_speed.py

Runs the quick start's commands in a temporary directory: `txt2img.py` for four images (the median of a few times),
`dreambooth.py` with its class images, once, and the comparison of its checkpoints. `taskset` limits a larger machine to
two cores.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.commands import timed_run, weights_flags  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402

PROMPT = "a photo of a red and white striped ball on the beach"
SAMPLING_TARGET, QUICK_START_GOAL = 10.0, 240.0
SAVE_EVERY = 200


def measure(output: Path, weights: list[str], runs: int) -> dict[str, list[float]]:
    """By command: the seconds of each time."""
    sample = ["txt2img.py", "-p", PROMPT]
    tune = ["dreambooth.py", "-c", "water bottle", "-i", "data/bottle", "-s", SAVE_EVERY]
    compare = ["txt2img.py", "--ckpt-path"]
    return {
        f'`python txt2img.py -p "{PROMPT}"`': [
            timed_run(*sample, "-o", output / "sampled", *weights) for _ in range(runs)
        ],
        f'`python dreambooth.py -c "water bottle" -i data/bottle -s {SAVE_EVERY}`': [
            timed_run(*tune, "-o", output / "ckpts", *weights)
        ],
        "`python txt2img.py --ckpt-path ckpts/`": [
            timed_run(*compare, output / "ckpts", "-o", output / "compared")
        ],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = script_parser(__doc__)
    parser.add_argument("--ckpt-path", type=Path, help="default: the embedded tiny model")
    parser.add_argument("--runs", type=int, default=3, help="of the first command")
    options = parser.parse_args(arguments)

    say(machine() + "\n")
    with tempfile.TemporaryDirectory() as directory:
        seconds = measure(Path(directory), weights_flags(options.ckpt_path), options.runs)
    limits = [SAMPLING_TARGET, QUICK_START_GOAL, None]
    medians = {command: statistics.median(times) for command, times in seconds.items()}
    rows = [
        [command, f"{medians[command]:.1f}", f"{min(times):.1f} to {max(times):.1f}", len(times), limit or "-"]
        for (command, times), limit in zip(seconds.items(), limits, strict=True)
    ]
    say(table(["command", "seconds, median", "range", "runs", "target: at most"], rows))
    write_json(options.json, {"machine": machine(), "seconds": seconds})
    targets = [
        Target(command.strip("`"), medians[command], limit, "s", at_most=True)
        for command, limit in zip(seconds, limits, strict=True)
        if limit
    ]
    return verdict(targets, options.strict)


if __name__ == "__main__":
    run_script(main)

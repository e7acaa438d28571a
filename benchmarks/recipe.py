"""How long does the whole recipe take, from the command to the last checkpoint: class images, training, checkpoints?

    python benchmarks/recipe.py                                        # 200 class images, 800 updates, 4 checkpoints
    python benchmarks/recipe.py --class-images 100 --iterations 400

Whole processes, in turns: `dreambooth.py` without previews, which the reference does not have either, and
`diffusers_peer/reference.py`, plain and `--tuned`. Both start from the same random float32 weights, each in its own
kind of file, and from the same made-up photos. The phases come from the files' times. No run is left out (`--warmup
0`): what a process does once, such as compiling, is part of what its user waits for.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.diffusers_peer.networks import assert_same_networks, build_peer  # noqa: E402
from benchmarks.diffusers_peer.sampling import COMPILE_MODES, write_pipeline  # noqa: E402
from benchmarks.tools.contest import ContestRun, Place, contest_parser  # noqa: E402
from benchmarks.tools.measuring import Spread, digits, ratio, take_turns  # noqa: E402
from benchmarks.tools.ours_training import PHOTOS, SUBJECT  # noqa: E402
from benchmarks.tools.photos import write_images  # noqa: E402
from benchmarks.tools.reporting import Target, say, table  # noqa: E402
from benchmarks.tools.script import run_script  # noqa: E402
from benchmarks.tools.sizes import build_random  # noqa: E402
from ldm.checkpoint.metadata import CheckpointInfo  # noqa: E402
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer  # noqa: E402
from ldm.errors import UserError  # noqa: E402

OURS, PLAIN, TUNED = "ours", "reference", "reference, tuned"
PHASES = ("until the first class image", "class images", "until the last checkpoint", "until the end")
GOAL = 3.0


@dataclass(frozen=True)
class Files:
    """The inputs: the weights in both kinds of file, and photos."""

    checkpoint: Path
    pipeline: Path
    photos: Path


@dataclass(frozen=True)
class Recipe:
    """The amount of work."""

    class_images: int
    iterations: int
    save_every: int
    steps: int
    """Of the reference's class images; ours have their own default."""
    train_text_encoder: bool
    compile_peer: str = "off"
    """torch.compile's mode for the tuned reference's sampling."""

    def ours(self, files: Files, place: Place, output: Path) -> list[object]:
        """The command."""
        flags = ["--no-previews", "--train-text-encoder" if self.train_text_encoder else "--no-train-text-encoder"]
        precision = {"float32": "full", "bfloat16": "bf16-mixed", "float16": "fp16-mixed"}[place.precision]
        return [
            "dreambooth.py", "-c", SUBJECT.class_name, "-i", files.photos, "--ckpt-path", files.checkpoint,
            "-o", output, "--class-img-count", self.class_images, "--iterations", self.iterations,
            "-s", self.save_every, "-d", place.device, "--precision", precision, *flags,
        ]  # fmt: skip

    def reference(self, files: Files, place: Place, output: Path, tuned: bool) -> list[object]:
        """Likewise."""
        flags = ["--train-text-encoder"] if self.train_text_encoder else []
        flags += ["--tuned", "--compile", self.compile_peer] if tuned else []
        precision = {"float32": "full", "bfloat16": "bf16", "float16": "fp16"}[place.precision]
        return [
            "benchmarks/diffusers_peer/reference.py",
            "--model", files.pipeline, "--photos", files.photos, "--output", output,
            "--class-name", SUBJECT.class_name, "--class-images", self.class_images, "--steps", self.steps,
            "--pixels", place.size.pixels, "--iterations", self.iterations, "--save-every", self.save_every,
            "--device", place.device, "--precision", precision, *flags,
        ]  # fmt: skip


def run(arguments: Sequence[object]) -> None:
    """Runs `python <arguments>` in the repository. Raises `UserError` with its last output if it fails."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise UserError(f"{arguments[0]} ended with status {done.returncode}:\n{last}")


def phases(began: float, ended: float, output: Path) -> list[float]:
    """Seconds of each of the `PHASES`, by when class images and checkpoints were finished."""
    images = sorted(_finished(path) for path in output.rglob("*") if path.suffix in (".png", ".jpg"))
    checkpoints = [*output.rglob("step-*.safetensors"), *output.glob("checkpoint-*/*")]
    if not images or not checkpoints:
        raise UserError(f"there are {len(images)} class images and {len(checkpoints)} files of checkpoints")
    return [
        b - a for a, b in itertools.pairwise([began, images[0], images[-1], max(map(_finished, checkpoints)), ended])
    ]


def _finished(path: Path) -> float:
    """When a file got its name or its last byte."""
    return path.stat().st_ctime


def write_files(directory: Path, place: Place) -> Files:
    """Writes both sides' weights, after checking that the networks are the same."""
    ldm = build_random(place.size)
    assert_same_networks(ldm, build_peer(ldm, place.size), place.size)
    files = Files(directory / "base.safetensors", directory / "pipeline", directory / "photos")
    checkpoint_writer(files.checkpoint, ldm, CheckpointInfo(config=place.size.yaml), SAVE_DTYPES["fp32"])()
    write_pipeline(files.pipeline, ldm, place.size)
    write_images(files.photos, PHOTOS, 2 * place.size.pixels)
    return files


def measure(
    commands: dict[str, Callable[[Path], list[object]]], directory: Path, runs: int, warmup: int
) -> tuple[dict[str, Spread], dict[str, list[list[float]]]]:
    """The seconds of each process, and of its phases in each run."""
    parts: dict[str, list[list[float]]] = {name: [] for name in commands}

    def turn(name: str) -> float:
        with tempfile.TemporaryDirectory(dir=directory) as output:
            began = time.time()  # the clock of file times
            run(commands[name](Path(output)))
            ended = time.time()
            parts[name].append(phases(began, ended, Path(output)))
        return ended - began

    spreads = take_turns({name: lambda name=name: turn(name) for name in commands}, runs, warmup)
    return spreads, {name: found[warmup:] for name, found in parts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = contest_parser(__doc__, peaks=False)
    parser.set_defaults(runs=1, warmup=0)
    parser.add_argument("--class-images", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--save-every", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50, help="of the reference's class images (default: 50)")
    parser.add_argument("--train-text-encoder", action="store_true", help="on both sides")
    parser.add_argument(
        "--compile-peer",
        choices=COMPILE_MODES,
        default="off",
        help="torch.compile's mode for the tuned reference's sampling, whose own time counts (default: off)",
    )
    parser.add_argument("--directory", type=Path, help="for temporary files; needs room for checkpoints of 11 GB each")
    contest = ContestRun("recipe", parser, __file__, arguments)
    options, place = contest.options, contest.place
    recipe = Recipe(
        options.class_images,
        options.iterations,
        options.save_every,
        options.steps,
        options.train_text_encoder,
        options.compile_peer,
    )
    contest.announce()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        files = write_files(directory, place)
        commands: dict[str, Callable[[Path], list[object]]] = {
            OURS: lambda output: recipe.ours(files, place, output),
            PLAIN: lambda output: recipe.reference(files, place, output, tuned=False),
            TUNED: lambda output: recipe.reference(files, place, output, tuned=True),
        }
        spreads, parts = measure(commands, directory, place.runs, place.warmup)

    rows, lines = [], []
    for contender, spread in spreads.items():
        shares = [Spread(values).median for values in zip(*parts[contender], strict=True)]
        faster = ratio(spread.values, spreads[OURS].values)
        rows.append([contender, spread, *map(digits, shares), "-" if contender == OURS else faster])
        figures: dict[str, Any] = dict(zip(PHASES, shares, strict=True))
        lines.append({"contender": contender, "seconds": spread, "phases": figures, "recipe": recipe})
    say(table(["whole recipe", "seconds", *PHASES, "ours is faster, times"], rows))
    faster = ratio(spreads[PLAIN].values, spreads[OURS].values)
    return contest.end(lines, [Target("times as fast as the reference", faster.median, GOAL, "x")])


if __name__ == "__main__":
    run_script(main)

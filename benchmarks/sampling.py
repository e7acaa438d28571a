"""How many class images per second by batch size, and how long does one image take (a batch of 1)?

    python benchmarks/sampling.py --batch-sizes 1
    python benchmarks/sampling.py --batch-sizes 4 16 --batches 4

From prompts to files, in turns: ours as in `dreambooth.py` (PNG), and diffusers' `StableDiffusionPipeline` with the
same weights as in the reference (JPEG), with its defaults and with its documentation's advice for speed. All use
guidance (7.5) and 50 steps of DDIM; ours also its default for class images, 20 steps of DPM-Solver++. With several
batches, ours writes one while it samples the next.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.diffusers_peer.networks import Networks, assert_same_networks, build_peer, forget  # noqa: E402
from benchmarks.diffusers_peer.sampling import (  # noqa: E402
    COMPILE_MODES,
    assert_same_image,
    build_pipeline,
    sample_class_images,
    tune_pipeline,
)
from benchmarks.tools.contest import Build, ContestRun, Place, Result, contest_parser, peak_targets  # noqa: E402
from benchmarks.tools.floors import Counted, Speed, count, measure_speed  # noqa: E402
from benchmarks.tools.measuring import Turn, ratio, seconds  # noqa: E402
from benchmarks.tools.reporting import Target, say, table  # noqa: E402
from benchmarks.tools.script import run_script  # noqa: E402
from benchmarks.tools.sizes import build_random  # noqa: E402
from benchmarks.tools.tf32 import tf32  # noqa: E402
from ldm.choices import COMPILE_MODES as OUR_MODES  # noqa: E402
from ldm.diffusion.latent_diffusion import LatentDiffusion  # noqa: E402
from ldm.diffusion.sampling import SamplingConfig  # noqa: E402
from ldm.runtime.batching import worker_pool  # noqa: E402
from ldm.runtime.compiling import compile_unet  # noqa: E402
from ldm.training.class_images import ClassImages  # noqa: E402

PROMPT = "a photo of a can"
OURS, FAST, PLAIN, TUNED = "ours, DDIM", "ours, DPM-Solver++", "diffusers", "diffusers, tuned"
FAST_STEPS = 20
CLASS_PICTURES = 200
"""Images of a whole job, by which `--compile auto` decides."""


def draw_ours(
    ldm: LatentDiffusion, sampling: SamplingConfig, place: Place, batch_size: int, batches: int, root: Path
) -> None:
    """Samples some batches of class images into their own directory."""
    cache = ClassImages(root, PROMPT, "", sampling, 0, place.precision, "", asdict(ldm.config))
    for _ in cache.sample(ldm, list(range(batches * batch_size)), batch_size, workers=worker_pool(ldm, sampling)):
        pass


def contests(
    ldm: LatentDiffusion,
    place: Place,
    batch_sizes: Sequence[int],
    batches: int,
    num_steps: int,
    compile_ours: str,
    compile_mode: str,
    root: Path,
    alone: bool,
) -> dict[str, dict[str, Build]]:
    """By batch size; every turn writes into a new directory below `root`. `alone`: only one of them will be built."""
    plain = None if alone else build_peer(ldm, place.size)  # before our weights change their layout
    fresh = (root / str(number) for number in itertools.count())
    pixels = place.size.pixels

    def timed(sample: Callable[[Path], None]) -> Turn:
        return lambda: seconds(lambda: sample(next(fresh)), place.device)

    def ours(batch_size: int, sampler: str, steps: int) -> Turn:
        sampling = SamplingConfig(pixels, pixels, sampler, steps)
        ldm.graphed_unet = None  # it belongs to another contender
        compile_unet(ldm, compile_ours, -(-CLASS_PICTURES // batch_size) * steps)
        graphed = ldm.graphed_unet

        def sample(directory: Path) -> None:
            ldm.graphed_unet = graphed
            draw_ours(ldm, sampling, place, batch_size, batches, directory)

        return timed(sample)

    def theirs(batch_size: int, networks: Networks, tuned: bool) -> Turn:
        pipeline = build_pipeline(networks, ldm)
        if tuned:
            tune_pipeline(pipeline, compile_mode)
        if alone:
            forget(ldm)

        def sample(directory: Path) -> None:
            with tf32(products=tuned):
                for first in range(0, batches * batch_size, batch_size):
                    sample_class_images(pipeline, PROMPT, batch_size, num_steps, pixels, directory, first)

        return timed(sample)

    return {
        str(size): {
            OURS: lambda size=size: ours(size, "ddim", num_steps),
            FAST: lambda size=size: ours(size, "dpm-solver", max(1, num_steps * FAST_STEPS // 50)),
            PLAIN: lambda size=size: theirs(size, plain or build_peer(ldm, place.size), False),
            TUNED: lambda size=size: theirs(size, build_peer(ldm, place.size), True),
        }
        for size in batch_sizes
    }


def report(
    results: dict[str, dict[str, Result]], counted: Counted, speed: Speed, batches: int, num_steps: int
) -> list[dict[str, Any]]:
    """Prints the table; the figures of each contender."""
    rows, lines = [], []
    for case, contenders in results.items():
        for name, result in contenders.items():
            steps = max(1, num_steps * FAST_STEPS // 50) if name == FAST else num_steps
            floor = speed.matrix_seconds(counted.image(steps))
            each = result.seconds.scaled(1 / (int(case) * batches))
            faster = ratio(result.seconds.values, contenders[OURS].seconds.values)
            rows.append(
                [
                    case,
                    name,
                    steps,
                    each,
                    f"{100 * floor / each.median:.0f}",
                    result.peak,
                    "-" if name == OURS else faster,
                ]
            )
            lines.append(
                {"batch_size": int(case), "contender": name, "steps": steps, "seconds_per_image": each,
                 "floor_seconds": floor, "peak": result.peak}
            )  # fmt: skip
    header = [
        "batch",
        "contender",
        "steps",
        "seconds an image",
        "% of the floor",
        "peak, GiB",
        "ours, DDIM is faster, times",
    ]
    say(table(header, rows))
    return lines


def targets(results: dict[str, dict[str, Result]], lines: Sequence[dict[str, Any]], place: Place) -> list[Target]:
    """For the largest batch that fits for all; on a GPU they are about the overhead beside arithmetic."""
    common = [case for case, found in results.items() if {OURS, FAST, PLAIN, TUNED} <= set(found)]
    if not common:
        return []
    case = common[-1]
    found = results[case]
    tuned, plain, fast = (ratio(found[a].seconds.values, found[b].seconds.values).median
                          for a, b in ((TUNED, OURS), (PLAIN, OURS), (OURS, FAST)))  # fmt: skip
    names = [f"batch {case}, times as fast as diffusers{how}" for how in (", tuned", "")]
    more = [
        Target(f"batch {case}, DPM-Solver++ beside DDIM", fast, 2.2, "x"),
        *peak_targets(case, found[OURS], found[PLAIN]),
    ]
    if place.device.type == "cpu":
        return [Target(names[0], tuned, 1.0, "x"), Target(names[1], plain, 1.0, "x"), *more]
    ours = next(line for line in lines if line["contender"] == OURS and line["batch_size"] == int(case))
    share = 100 * ours["floor_seconds"] / ours["seconds_per_image"].median
    return [
        Target(names[0], tuned, 1.25, "x"),
        Target(names[1], plain, 2.5, "x"),
        Target("of the floor", share, 50),
        *more,
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = contest_parser(__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16], metavar="N")
    parser.add_argument("--batches", type=int, default=1, help="batches in each run, one after another (default: 1)")
    parser.add_argument("--steps", type=int, default=50, help="of DDIM; DPM-Solver++ takes two fifths (default: 50)")
    parser.add_argument(
        "--compile-peer",
        choices=COMPILE_MODES,
        help="torch.compile's mode of diffusers, tuned (default: default on CUDA)",
    )
    parser.add_argument(
        "--compile", choices=OUR_MODES, default="auto", help="ours, as dreambooth.py's flag (default: auto)"
    )
    run = ContestRun("sampling", parser, __file__, arguments)
    options, place = run.options, run.place
    mode = options.compile_peer or ("default" if place.device.type == "cuda" else "off")
    ldm = build_random(place.size).to(place.device, place.compute.dtype)
    with tempfile.TemporaryDirectory() as directory:
        cases = contests(
            ldm,
            place,
            options.batch_sizes,
            options.batches,
            options.steps,
            options.compile,
            mode,
            Path(directory),
            alone=bool(run.peak_of),
        )
        if run.peak_of:
            return run.print_peak(cases)
        run.announce()
        peer = build_peer(ldm, place.size)
        assert_same_networks(ldm, peer, place.size)
        found = assert_same_image(ldm, build_pipeline(peer, ldm), min(place.size.pixels, 64))
        speed, counted = measure_speed(place.device, place.compute.dtype), count(ldm.config, place.size.pixels)
        say(f"both sample the same image within {found:.1e}; torch.compile of diffusers, tuned: {mode}")
        say(f"this machine: {speed}; an image: {counted.image(options.steps) / 1e12:.3g} TFLOP\n")
        results = run.all_in_turns(cases)
    lines = report(results, counted, speed, options.batches, options.steps)
    return run.end(lines, targets(results, lines, place))


if __name__ == "__main__":
    run_script(main)

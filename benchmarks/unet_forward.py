"""How long does a forward pass of the UNet take, and how much memory?

    python benchmarks/unet_forward.py --batch-sizes 1 2 8

Ours against diffusers' UNet2DConditionModel with the same tensors, in turns; a batch of 2 is one image with guidance.
The floor is the counted arithmetic at this machine's measured speed of products of random matrices.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.diffusers_peer.networks import assert_same_networks, build_peer, forget  # noqa: E402
from benchmarks.tools.contest import Build, ContestRun, Place, contest_parser, peak_targets  # noqa: E402
from benchmarks.tools.floors import count, measure_speed  # noqa: E402
from benchmarks.tools.measuring import Turn, digits, ratio, seconds  # noqa: E402
from benchmarks.tools.reporting import Target, say, table  # noqa: E402
from benchmarks.tools.script import run_script  # noqa: E402
from benchmarks.tools.sizes import build_random  # noqa: E402
from benchmarks.tools.tf32 import tf32  # noqa: E402
from ldm.diffusion.latent_diffusion import LatentDiffusion  # noqa: E402

OURS, PLAIN, TUNED = "ours", "diffusers", "diffusers, channels_last"


def contests(
    ldm: LatentDiffusion, place: Place, batch_sizes: Sequence[int], alone: bool
) -> dict[str, dict[str, Build]]:
    """By batch size. `alone`: only one of them will be built."""

    def forward(network: Callable[..., Any], batch_size: int) -> Turn:
        generator = torch.Generator().manual_seed(0)
        shape = ldm.config.latent_shape(place.size.pixels, place.size.pixels)
        latents = torch.randn(batch_size, *shape, generator=generator).to(place.device, place.compute.dtype)
        context = torch.randn(batch_size, 77, ldm.config.unet.context_dim, generator=generator).to(latents)
        timesteps = torch.full((batch_size,), 500, device=place.device)

        @torch.inference_mode()
        def turn() -> float:
            with tf32(products=False, convolutions=network is not ldm.unet):
                return seconds(lambda: network(latents, timesteps, context), place.device)

        return turn

    def lone(turn: Turn, *ours: str) -> Turn:
        """The parts of our weights that stay in memory beside it, if its memory is measured."""
        if alone:
            forget(ldm, but=ours)
        return turn

    def ours(batch_size: int) -> Turn:
        return lone(forward(ldm.unet, batch_size), "unet")

    def plain(batch_size: int) -> Turn:
        return lone(forward(build_peer(ldm, place.size).unet, batch_size), "unet")

    def tuned(batch_size: int) -> Turn:
        return lone(forward(build_peer(ldm, place.size).unet.to(memory_format=torch.channels_last), batch_size))

    return {
        str(batch_size): {
            OURS: partial(ours, batch_size),
            PLAIN: partial(plain, batch_size),
            TUNED: partial(tuned, batch_size),
        }
        for batch_size in batch_sizes
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = contest_parser(__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2], metavar="N")
    run = ContestRun("UNet forward", parser, __file__, arguments)
    place = run.place
    ldm = build_random(place.size).to(place.device, place.compute.dtype)
    cases = contests(ldm, place, run.options.batch_sizes, alone=bool(run.peak_of))
    if run.peak_of:
        return run.print_peak(cases)

    run.announce()
    found = assert_same_networks(ldm, build_peer(ldm, place.size), place.size)
    say("difference of the networks: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    speed = measure_speed(place.device, place.compute.dtype)
    operations = count(ldm.config, place.size.pixels).unet
    say(f"this machine: {speed}; a forward pass of one image: {operations / 1e9:.4g} GFLOP\n")

    results = run.all_in_turns(cases)
    rows, lines, targets = [], [], []
    for case, contenders in results.items():
        floor = speed.matrix_seconds(int(case) * operations)
        ours = contenders[OURS].seconds.values
        for name, result in contenders.items():
            faster = ratio(result.seconds.values, ours)
            share = 100 * floor / result.seconds.median
            rows.append([case, name, result.seconds, f"{share:.0f}", result.peak, "-" if name == OURS else faster])
            lines.append({"batch_size": int(case), "contender": name, "floor_seconds": floor, **vars(result)})
            if name != OURS:
                targets.append(Target(f"batch {case}, times as fast as {name}", faster.median, 1.0, "x"))
                targets += peak_targets(f"batch {case}", contenders[OURS], result)
    say(table(["batch", "contender", "seconds", "% of the floor", "peak, GiB", "ours is faster, times"], rows))
    say(f"The floor of one image is {digits(speed.matrix_seconds(operations))} s.")
    return run.end(lines, targets)


if __name__ == "__main__":
    run_script(main)

"""How long does a training step take, one photo and one class image, and how much memory?

    python benchmarks/training_step.py
    python benchmarks/training_step.py --train-text-encoder

Ours as `dreambooth.py` runs it, Lightning and callbacks included, against the reference's loop (docs/performance.md
describes it) over diffusers' networks with the same weights: with its defaults, and with its flags for speed. Each turn
begins a new training, leaves out its first steps and times the following ones together. If memory does not hold two of
everything (a CPU at full size), this still works: weights and gradients are shared, and an optimizer's state lives for
one turn only.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.diffusers_peer.networks import TOLERANCE, assert_same_networks, build_peer, forget  # noqa: E402
from benchmarks.diffusers_peer.training import (  # noqa: E402
    Reference,
    ReferenceOptions,
    build_accelerator,
    build_scheduler,
)
from benchmarks.tools.contest import Build, ContestRun, Place, Result, contest_parser, peak_targets  # noqa: E402
from benchmarks.tools.floors import Counted, Speed, count, measure_speed  # noqa: E402
from benchmarks.tools.measuring import Turn, digits, ratio, seconds  # noqa: E402
from benchmarks.tools.ours_training import CLASS_IMAGES, PHOTOS, SUBJECT, time_steps, training_config  # noqa: E402
from benchmarks.tools.photos import write_images  # noqa: E402
from benchmarks.tools.reporting import Target, say, table  # noqa: E402
from benchmarks.tools.script import run_script  # noqa: E402
from benchmarks.tools.sizes import build_random  # noqa: E402
from benchmarks.tools.tf32 import tf32  # noqa: E402
from ldm.diffusion.latent_diffusion import LatentDiffusion  # noqa: E402
from ldm.diffusion.loss import dreambooth_loss, eps_loss  # noqa: E402
from ldm.errors import UserError  # noqa: E402
from ldm.runtime.devices import Compute  # noqa: E402

OURS, PLAIN, TUNED = "ours", "reference", "reference, tuned"
CASES = {False: "text encoder frozen", True: "text encoder trained"}


def autocast_dtype(place: Place) -> torch.dtype | None:
    """The type of the arithmetic; the trained weights are float32 on both sides."""
    return None if place.compute.dtype == torch.float32 else place.compute.dtype


class Contest:
    """Builds the contenders; each of them trains the weights of `ldm`."""

    def __init__(
        self, ldm: LatentDiffusion, place: Place, train_text_encoder: bool, warmup: int, steps: int, alone: bool
    ) -> None:
        self.ldm, self.place, self.train_text_encoder = ldm, place, train_text_encoder
        self.warmup, self.steps, self.alone = warmup, steps, alone

    def builds(self, photos: Path, class_images: Path) -> dict[str, Build]:
        """By name."""
        plain = ReferenceOptions(train_text_encoder=self.train_text_encoder)
        tuned = ReferenceOptions(
            train_text_encoder=self.train_text_encoder,
            precomputed_text=not self.train_text_encoder,
            tf32=True,
        )
        return {
            OURS: self.ours,
            PLAIN: lambda: self.reference(plain, photos, class_images),
            TUNED: lambda: self.reference(tuned, photos, class_images),
        }

    def ours(self, **changes: Any) -> Turn:
        """By `fit`, from latents that were encoded before; `changes` are the configuration's."""
        config = training_config(self.place.size, train_text_encoder=self.train_text_encoder, **changes)
        dtype = None if changes.get("train_dtype") == "bf16" else autocast_dtype(self.place)
        return lambda: time_steps(self.ldm, self.place.size, config, dtype, self.warmup, self.steps)

    def reference(self, options: ReferenceOptions, photos: Path, class_images: Path) -> Turn:
        """By its loop, from files."""
        reference = self.build_reference(options)

        def steps(number: int) -> None:
            for _ in range(number):
                reference.step()

        def turn() -> float:
            reference.begin(photos, class_images, self.place.size.pixels)
            try:
                with tf32(products=options.tf32):
                    steps(self.warmup)
                    return seconds(lambda: steps(self.steps), self.place.device) / self.steps
            finally:
                reference.end()

        return turn

    def build_reference(self, options: ReferenceOptions) -> Reference:
        """Around the same weights."""
        trained = ["unet", *(["text_encoder"] if options.train_text_encoder else [])]
        networks = build_peer(self.ldm, self.place.size, trained)
        accelerator = build_accelerator(self.place.device, autocast_dtype(self.place))
        prompts = SUBJECT.instance_prompt, SUBJECT.class_prompt
        reference = Reference(networks, build_scheduler(self.ldm.config), options, accelerator, prompts)
        if self.alone:
            forget(self.ldm, but=trained)
        return reference

    @torch.no_grad()
    def assert_same_loss(self) -> float:
        """How far the losses of both sides are apart for the same latents, relatively. Raises `UserError` if far."""
        ldm, device = self.ldm, self.place.device
        shape = (2, *ldm.config.latent_shape(self.place.size.pixels, self.place.size.pixels))
        generator = torch.Generator().manual_seed(3)
        latents, noise = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        timesteps = torch.tensor([20, 800], device=device)
        with Compute(device, autocast_dtype=autocast_dtype(self.place)).autocast():
            context = ldm.encode_prompts([SUBJECT.instance_prompt, SUBJECT.class_prompt])
            eps = ldm.unet(ldm.schedule.add_noise(latents, noise, timesteps), timesteps, context)
        ours = dreambooth_loss(eps_loss(eps, noise), 1, prior_loss_weight=1.0).total
        reference = self.build_reference(ReferenceOptions(train_text_encoder=self.train_text_encoder))
        theirs = reference.loss(latents, noise, timesteps, context)
        ldm.requires_grad_(False)
        apart = float((ours - theirs).abs() / theirs)
        if not apart < TOLERANCE[self.place.compute.dtype]:
            raise UserError(f"the losses of both sides differ: {float(ours)} and {float(theirs)}")
        return apart


def floor_seconds(counted: Counted, speed: Speed, train_text_encoder: bool) -> float:
    """Matrix products of a step on latents, then the optimizer's traffic."""
    arithmetic = speed.matrix_seconds(counted.step(2, train_text_encoder))
    return arithmetic + speed.traffic_seconds(counted.optimizer_bytes(train_text_encoder))


def report(results: dict[str, Result], case: str, floor: float) -> list[dict[str, Any]]:
    """Prints the table; the figures of each contender."""
    rows, lines = [], []
    for name, result in results.items():
        faster = ratio(result.seconds.values, results[OURS].seconds.values)
        share = f"{100 * floor / result.seconds.median:.0f}"
        rows.append([name, result.seconds, share, result.peak, "-" if name == OURS else faster])
        lines.append({"case": case, "contender": name, "floor_seconds": floor, **vars(result)})
    say(table([case, "seconds a step", "% of the floor", "peak, GiB", "ours is faster, times"], rows))
    say(f"The floor of a step is {digits(floor)} s.")
    return lines


def targets(results: dict[str, Result], floor: float, place: Place) -> list[Target]:
    """On a CPU, where nearly all time is arithmetic: not slower. Memory on all devices."""
    if TUNED not in results:  # memory was too small for it
        return []
    ours, theirs = results[OURS], results[TUNED]
    faster = ratio(theirs.seconds.values, ours.seconds.values).median
    name = "times as fast as the reference, tuned"
    if place.device.type == "cpu":
        return [Target(name, faster, 1.0, "x"), *peak_targets("a step", ours, theirs)]
    share = 100 * floor / ours.seconds.median
    return [Target(name, faster, 2.0, "x"), Target("of the floor", share, 40), *peak_targets("a step", ours, theirs)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = contest_parser(__doc__)
    parser.set_defaults(warmup=0)
    parser.add_argument("--train-text-encoder", action="store_true", help="on both sides")
    parser.add_argument("--steps", type=int, default=20, help="timed in each run (default: 20)")
    parser.add_argument("--first-steps", type=int, default=5, help="of each run, which don't count (default: 5)")
    run = ContestRun("training step", parser, __file__, arguments)
    options, place = run.options, run.place
    ldm = build_random(place.size).to(place.device)
    contest = Contest(
        ldm, place, options.train_text_encoder, options.first_steps, options.steps, alone=bool(run.peak_of)
    )
    case = CASES[options.train_text_encoder]
    with tempfile.TemporaryDirectory() as directory:
        photos = write_images(Path(directory) / "photos", PHOTOS, 2 * place.size.pixels)
        class_images = write_images(Path(directory) / "class", CLASS_IMAGES, place.size.pixels)
        cases = {case: contest.builds(photos, class_images)}
        if run.peak_of:
            return run.print_peak(cases)
        run.announce()
        assert_same_networks(ldm, build_peer(ldm, place.size), place.size)
        say(f"both compute the same loss within {contest.assert_same_loss():.1e}")
        speed = measure_speed(place.device, place.compute.dtype)
        say(f"this machine: {speed}\n")
        results = run.all_in_turns(cases)[case]
    floor = floor_seconds(count(ldm.config, place.size.pixels), speed, options.train_text_encoder)
    return run.end(report(results, case, floor), targets(results, floor, place))


if __name__ == "__main__":
    run_script(main)

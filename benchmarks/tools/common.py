"""What the benchmarks share: shares with their intervals, tables, goals, the machine, a model to draw with."""

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.models import EMBEDDED, ModelSlot, base_weights, settings_of
from ldm.commands.placement import Compute
from ldm.commands.record import versions
from ldm.data.judge import HALF_AND_HALF, HEADS
from ldm.data.toyworld import Scene
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import sample_images
from ldm.errors import UserError
from ldm.evaluation.judge import Evaluator
from ldm.files import ROOT, write_text

QUESTIONS = tuple(head.name for head in HEADS)
"""What the judge is asked: class, setting, colour, pattern."""
ALL = "all four"

Z = 1.96
"""Standard errors on either side that hold 95 %."""


@dataclass(frozen=True)
class Count:
    """How many of so many were right."""

    right: int
    asked: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.right + other.right, self.asked + other.asked)

    @property
    def percent(self) -> float:
        """NaN of none."""
        return 100 * self.right / self.asked if self.asked else math.nan

    def __str__(self) -> str:
        """Such as `97.1 (96.3 to 97.8)`: percent and their 95 % interval."""
        if not self.asked:
            return "-"
        low, high = wilson(self.right, self.asked)
        return f"{self.percent:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def wilson(successes: int, trials: int, z: float = Z) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, spread = successes / trials, z * z / trials
    half = z * math.sqrt(share * (1 - share) / trials + spread / trials / 4)
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


@dataclass(frozen=True)
class Mean:
    """A mean and the half width of its 95 % interval, by the standard error."""

    value: float
    half: float
    count: int

    def __str__(self) -> str:
        """Such as `0.712 ± 0.014`."""
        return f"{self.value:.3f} ± {self.half:.3f}"


def mean(values: Sequence[float] | Tensor) -> Mean:
    """Of independent values; the interval of a single one is not known."""
    numbers = torch.as_tensor(values, dtype=torch.float64)
    half = Z * float(numbers.std()) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Mean(float(numbers.mean()), half, len(numbers))


def pair_similarity(similarity: Tensor) -> float:
    """The mean of all pairs of different pictures in a square of cosines."""
    count = len(similarity)
    return float((similarity.sum() - similarity.diagonal().sum()) / (count * (count - 1)))


@dataclass(frozen=True)
class Goal:
    """A figure and what it should be at least, or at most."""

    name: str
    value: float
    limit: float
    unit: str = "%"
    at_most: bool = False

    @property
    def met(self) -> bool:
        """A figure that is not known misses its goal."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{self.name}: {self.value:.1f} {self.unit}, should be {sign} {self.limit:g} {self.unit}"


def verdict(goals: Sequence[Goal], strict: bool) -> int:
    """Says which goals are missed; the exit status, 1 for any of them if `strict`."""
    missed = [str(goal) for goal in goals if not goal.met]
    say(f"\nGoals: {len(goals) - len(missed)} of {len(goals)} met." + "".join(f"\n- missed: {line}" for line in missed))
    return 1 if missed and strict else 0


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def say(text: str) -> None:
    """To the terminal, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_json(path: Path | None, figures: object) -> None:
    """Writes the figures, if a file is given; counts and means become objects."""
    if path:
        write_text(path, json.dumps(figures, indent=1, default=vars) + "\n")


def machine() -> str:
    """The processor, how many cores and threads there are to use, and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = versions()
    shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "python", "commit") if name in found)
    return f"{_processor()}, {platform.system()}, {cores} cores, {torch.get_num_threads()} torch threads, {shown}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class Drawer:
    """Draws with a checkpoint, as the commands do, by the model's own sampling defaults."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.slot = ModelSlot(Compute(device))
        self.use(path)

    def use(self, path: Path) -> CheckpointInfo:
        """Another checkpoint of the same shape; what it says of itself."""
        file = read_checkpoint(path)
        settings = settings_of(file, None)[1]
        self.sampling = settings.sampling
        self.ldm: LatentDiffusion = self.slot.use(file, settings)
        return checkpoint_info(file)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], what: str = "drawing") -> Tensor:
        """One picture for each prompt from the noise of its seed: (n 3 h w) in [-1, 1]."""
        parts = []
        with tqdm(total=len(prompts), desc=what, unit="img") as bar:
            for start in range(0, len(prompts), self.sampling.batch_size):
                some = prompts[start : start + self.sampling.batch_size]
                context = torch.cat([self.slot.context(prompt) for prompt in some])
                nothing = self.slot.context("").expand(len(some), -1, -1)
                chosen = seeds[start : start + len(some)]
                parts.append(sample_images(self.ldm, context, nothing, chosen, self.sampling))
                bar.update(len(some))
        return torch.cat(parts)

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Tensor:
        """What the autoencoder makes of pictures: there and back, (n 3 h w) in [-1, 1]."""
        autoencoder, device = self.ldm.autoencoder, self.ldm.device
        parts = [autoencoder.decode(autoencoder.encode(part.to(device)).mean).cpu() for part in images.split(32)]
        return torch.cat(parts).float().clamp(-1, 1)


def scene_answers(scene: Scene) -> dict[str, set[str]]:
    """By head: what may be said of a scene with an ordinary thing; of stripes and checks, either colour."""
    thing = scene.thing
    colours = thing.colours if thing.pattern in HALF_AND_HALF else thing.colours[:1]
    return {
        "class": {thing.class_name},
        "setting": {scene.setting},
        "colour": set(colours),
        "pattern": {thing.pattern},
    }


def judged(evaluator: Evaluator, images: Tensor, scenes: Sequence[Scene]) -> list[dict[str, tuple[bool, str]]]:
    """For each picture and head whether the judge names what the scene shows, and what it names."""
    return [
        {head: (said[head].label in right, said[head].label) for head, right in scene_answers(scene).items()}
        for said, scene in zip(evaluator.name(images), scenes, strict=True)
    ]


def counts(answers: Sequence[dict[str, tuple[bool, str]]]) -> dict[str, Count]:
    """By head, and how many pictures are right in all of them."""
    right = {head: [one[head][0] for one in answers] for head in QUESTIONS}
    right[ALL] = [all(one[head][0] for head in QUESTIONS) for one in answers]
    return {head: Count(sum(values), len(values)) for head, values in right.items()}


def mistakes(answers: Sequence[dict[str, tuple[bool, str]]], scenes: Sequence[Scene], most: int = 6) -> list[str]:
    """The most frequent ones of each head, a line each."""
    lines = []
    for head in QUESTIONS:
        wrong = Counter(
            (" or ".join(sorted(scene_answers(scene)[head])), one[head][1])
            for one, scene in zip(answers, scenes, strict=True)
            if not one[head][0]
        )
        listed = ", ".join(f"{true} taken for {said} ({count})" for (true, said), count in wrong.most_common(most))
        lines.append(f"- {head}: {listed or 'none'}")
    return lines


def weights_flags(path: Path | None) -> list[str]:
    """The flags with which a command uses these weights, or the embedded tiny model: none where it does so anyway."""
    if path is None and base_weights(None) == EMBEDDED:
        return []
    return ["--ckpt-path", str((path or EMBEDDED).resolve())]


def timed_run(*arguments: object) -> float:
    """Runs `python <arguments>` in the repository as a user does: the seconds it took.

    Raises `UserError` with what it said last if it fails.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise UserError(f"python {' '.join(map(str, arguments))} ended with status {done.returncode}:\n{last}")
    return seconds

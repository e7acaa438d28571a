"""How long does training wait for a checkpoint, when are its files complete, and how large are they?

    python benchmarks/checkpoint.py --directory /where/there/is/room

Ours as `dreambooth.py` saves: weights in half precision and, replaced each time, the state to resume from, both written
by a thread while training goes on, flushed to the disk and renamed. The reference: accelerate's `save_state`, the whole
training state each time, and the pipeline that it writes at the end; neither is flushed. Both train the same networks;
the wait is how much later the next step ends than without a save, so that it includes what a save changes in that step,
such as capturing it again. How much later it begins stands beside it: on a CPU steps vary by more than that.
"""

import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.diffusers_peer.networks import build_peer  # noqa: E402
from benchmarks.diffusers_peer.sampling import build_pipeline  # noqa: E402
from benchmarks.diffusers_peer.training import (  # noqa: E402
    Reference,
    ReferenceOptions,
    build_accelerator,
    build_scheduler,
)
from benchmarks.tools.contest import ContestRun, Place, contest_parser  # noqa: E402
from benchmarks.tools.measuring import Spread, digits, synchronize, take_turns  # noqa: E402
from benchmarks.tools.ours_training import (  # noqa: E402
    CLASS_IMAGES,
    PHOTOS,
    SUBJECT,
    EnoughError,
    TimedDreamBooth,
    fit_options,
    training_config,
    training_of,
)
from benchmarks.tools.photos import write_images  # noqa: E402
from benchmarks.tools.reporting import Target, say, table  # noqa: E402
from benchmarks.tools.script import run_script  # noqa: E402
from benchmarks.tools.sizes import build_random  # noqa: E402
from benchmarks.tools.tf32 import tf32  # noqa: E402
from ldm.checkpoint.discovery import RESUME_STATE  # noqa: E402
from ldm.checkpoint.metadata import CheckpointInfo  # noqa: E402
from ldm.checkpoint.saving import SAVE_DTYPES, checkpoint_writer  # noqa: E402
from ldm.diffusion.latent_diffusion import LatentDiffusion  # noqa: E402
from ldm.training.dreambooth import DreamBooth  # noqa: E402
from ldm.training.trainer import fit  # noqa: E402

OURS, REFERENCE = "ours", "reference"
CHECKPOINTS = 4
SAVE_AFTER = 3
"""Updates; one more is made."""


class Clock:
    """The begin and end of each step; the last but one is saved."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.done: list[float] = []

    def begin(self) -> None:
        """Records the begin of a step."""
        self.began.append(time.time())  # the clock of file times

    def end(self, device: torch.device) -> None:
        """Records its end."""
        synchronize(device)
        self.done.append(time.time())

    def later(self) -> tuple[float, float]:
        """How many seconds later than other steps the last step began, and ended, after the one before it."""
        pauses = [began - done for done, began in zip(self.done, self.began[1:], strict=False)]
        return _beyond_others(pauses), _beyond_others([b - a for a, b in itertools.pairwise(self.done)])


def _beyond_others(values: Sequence[float]) -> float:
    *others, last = values
    return last - statistics.median(others)


@dataclass(frozen=True)
class Saved:
    """One checkpoint."""

    began_later: float
    """Seconds by which the next step begins later than without a save."""
    done_later: float
    """Seconds by which it ends later."""
    written: float
    """Seconds from the end of the step until all files have their final names."""
    weights: int
    """Bytes of the weights that people use; the reference needs another file tree for them."""
    state: int
    """Bytes of the resume state."""


class WaitingDreamBooth(TimedDreamBooth):
    """Records the begin and end of each step; stops after the step that follows the save."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = Clock()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.clock.begin()
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.clock.end(self.device)

    def on_train_batch_end(self, *args: Any) -> None:
        DreamBooth.on_train_batch_end(self, *args)  # not that of the timed class, which stops at another step
        if self.trainer.global_step == SAVE_AFTER + 1:
            raise EnoughError


def save_ours(ldm: LatentDiffusion, place: Place, autocast: torch.dtype | None, directory: Path) -> Saved:
    """Trains until one checkpoint is saved."""
    options = fit_options(directory, ldm.device, autocast)
    path = directory / f"step-{SAVE_AFTER:05d}.safetensors"

    def save(module: DreamBooth, step: int) -> None:
        options.writer.put(checkpoint_writer(path, module.ldm, CheckpointInfo(step=step), SAVE_DTYPES["fp16"]))

    config = training_config(place.size, save_every=SAVE_AFTER)
    with training_of(WaitingDreamBooth, ldm, place.size, config) as module, contextlib.suppress(EnoughError):
        fit(module, options, save)
    state = directory / RESUME_STATE
    written = max(file.stat().st_ctime for file in (path, state)) - module.clock.done[SAVE_AFTER - 1]
    return Saved(*module.clock.later(), written, path.stat().st_size, state.stat().st_size)


def save_reference(
    reference: Reference, pipeline: Any, folders: tuple[Path, Path], pixels: int, directory: Path
) -> Saved:
    """Saves the training state after the same step; the time excludes the pipeline."""
    clock = Clock()
    reference.begin(*folders, pixels)
    with tf32(products=False):
        for step in range(1, SAVE_AFTER + 2):
            clock.begin()
            reference.step()
            clock.end(reference.accelerator.device)
            if step == SAVE_AFTER:
                reference.accelerator.save_state(str(directory / "state"))
                written = time.time() - clock.done[-1]
    reference.end()
    pipeline.save_pretrained(directory / "pipeline")
    return Saved(*clock.later(), written, _bytes_below(directory / "pipeline"), _bytes_below(directory / "state"))


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def on_disk(name: str, saved: Saved) -> int:
    """Bytes after `CHECKPOINTS` checkpoints: the reference keeps each state, and writes the pipeline once."""
    times = (CHECKPOINTS, 1) if name == OURS else (1, CHECKPOINTS)
    return times[0] * saved.weights + times[1] * saved.state


def measure(ldm: LatentDiffusion, place: Place, root: Path) -> tuple[dict[str, Spread], dict[str, list[Saved]]]:
    """The seconds that training waits, and all other figures of each save."""
    autocast = None if place.compute.dtype == torch.float32 else place.compute.dtype
    folders = (
        write_images(root / "photos", PHOTOS, place.size.pixels),
        write_images(root / "class", CLASS_IMAGES, place.size.pixels),
    )
    networks = build_peer(ldm, place.size, ["unet"])
    pipeline = build_pipeline(build_peer(ldm, place.size), ldm)
    accelerator = build_accelerator(place.device, autocast)
    prompts = SUBJECT.instance_prompt, SUBJECT.class_prompt
    reference = Reference(networks, build_scheduler(ldm.config), ReferenceOptions(), accelerator, prompts)
    found: dict[str, list[Saved]] = {OURS: [], REFERENCE: []}

    def turn(name: str, save: Callable[[Path], Saved]) -> float:
        with tempfile.TemporaryDirectory(dir=root) as directory:
            found[name].append(save(Path(directory)))
        return found[name][-1].done_later

    turns = {
        OURS: lambda: turn(OURS, lambda directory: save_ours(ldm, place, autocast, directory)),
        REFERENCE: lambda: turn(
            REFERENCE, lambda directory: save_reference(reference, pipeline, folders, place.size.pixels, directory)
        ),
    }
    spreads = take_turns(turns, place.runs, place.warmup)
    return spreads, {name: saves[place.warmup :] for name, saves in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = contest_parser(__doc__, peaks=False)
    parser.add_argument("--directory", type=Path, help="where to write; at full size it needs room for 20 GB")
    run = ContestRun("checkpoint", parser, __file__, arguments)
    options, place = run.options, run.place
    run.announce()
    ldm = build_random(place.size).to(place.device)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        spreads, saves = measure(ldm, place, Path(directory))
    rows, lines = [], []
    for name, waited in spreads.items():
        last, written = saves[name][-1], Spread(tuple(saved.written for saved in saves[name]))
        began = Spread(tuple(saved.began_later for saved in saves[name]))
        sizes = [last.weights, last.state, on_disk(name, last)]
        rows.append([name, waited, began, written, *(digits(size / 1e9) for size in sizes)])
        lines.append({"contender": name, "waited": waited, "began": began, "written": written, "bytes": sizes})
    header = ["a checkpoint", "training waits, s", "of which before the next step, s", "files are there after, s"]
    say(table([*header, "weights, GB", "state, GB", f"on disk after {CHECKPOINTS}, GB"], rows))
    limit = round(spreads[REFERENCE].median, 3)
    return run.end(lines, [Target("training waits, beside the reference", spreads[OURS].median, limit, "s", True)])


if __name__ == "__main__":
    run_script(main)

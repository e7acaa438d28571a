"""How much memory does each memory profile take, and does any of them learn worse?

    python benchmarks/profiles.py --sheet curves.png
    python benchmarks/profiles.py --ckpt-path weights/sd-v1/sd-v1-4.ckpt --device cuda --sheet curves.png

A profile is an optimizer, a type of weights and a level of gradient checkpointing; `--vram` chooses one. Trains the
same subject on the same batches (noise and timesteps included), as `dreambooth.py` does, once with each profile, and
compares the losses step by step with those of the first, which is exact. The last row gives the losses if no weight
changes. The peak is measured and predicted: on CUDA, where steps are captured, what the allocator takes from the device
in the whole training, predicted without CUDA's own context; on the CPU tensors alone, in one step.
"""

import argparse
import contextlib
import gc
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.tools.image_sampler import ImageSampler  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.ours_training import EnoughError  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.checkpoint.reading import read_checkpoint  # noqa: E402
from ldm.commands.options.common import number  # noqa: E402
from ldm.data.latents import encode_moments  # noqa: E402
from ldm.data.photos import read_directory  # noqa: E402
from ldm.nn.memory import Footprint  # noqa: E402
from ldm.runtime.compiling import step_capture  # noqa: E402
from ldm.runtime.devices import Compute, parse_device, training_compute  # noqa: E402
from ldm.runtime.models import ModelSlot, base_weights, settings_of  # noqa: E402
from ldm.training.dreambooth import DreamBooth  # noqa: E402
from ldm.training.dreambooth_config import DreamBoothConfig, Subject  # noqa: E402
from ldm.training.memory import (  # noqa: E402
    CUDA_CONTEXT,
    CUDA_OVERHEAD,
    MEMORY_PROFILES,
    MemoryProfile,
    Workload,
    predict,
)
from ldm.training.trainer import FitOptions, fit  # noqa: E402

SEED = 42
MIB = 2**20
LAST = 4
"""The losses of the last one in this many of the steps are compared."""
STEADY = 1
"""The step that is measured on a CPU: the optimizer already has its state."""
LOSS_TARGET, PEAK_TARGET = 3.0, 10.0
"""In percent."""
UNTRAINED, NO_LEARNING = "without learning", 1e-30
"""A learning rate that moves no weight: the distance of its losses from the first row's shows how much 3 % are."""
FEW_OVERHEADS = 3
"""If `CUDA_OVERHEAD`, chosen for Stable Diffusion, is more than a third of a prediction, there is no target for it."""
COLOURS = ("black", "#c03030", "#3060c0", "#309040", "#b07010", "#7040a0", "#109090", "#a03070", "#707070")


@dataclass(frozen=True)
class Study:
    """The training data and settings, the same for all profiles."""

    base: Path
    subject: Subject
    config: DreamBoothConfig
    instance_moments: Tensor
    class_moments: Tensor
    workload: Workload
    compute: Compute


class WatchedDreamBooth(DreamBooth):
    """Records the losses and the peak of memory; stops after the last update, before anything is saved."""

    peak = 0
    """In bytes."""

    def on_train_start(self) -> None:
        super().on_train_start()
        self.curve: list[Tensor] = []
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.curve.append(loss.detach().clone())  # a graphed step overwrites it
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Includes the forward and backward pass."""
        step = partial(super().optimizer_step, *args, **kwargs)
        if self.device.type == "cuda":
            step()
            self.peak = torch.cuda.max_memory_reserved(self.device)
        elif len(self.curve) == STEADY:
            with Footprint() as footprint:
                states = self.trainer.optimizers[0].state.values()
                footprint.watch(list(self.parameters()), list(self.buffers()), list(states))
                step()
            self.peak = footprint.peak
        else:
            step()
        if len(self.curve) == self.config.iterations:
            raise EnoughError


def prepare(options: argparse.Namespace) -> Study:
    """Samples class images and encodes everything."""
    device = parse_device(options.device)
    compute = training_compute(device, "auto")
    base = options.ckpt_path or base_weights(None)
    file = read_checkpoint(base)
    settings = settings_of(file, None)[1]
    height, width = settings.sampling.height, settings.sampling.width
    subject = Subject(options.class_name)
    sampler = ImageSampler(base, device)
    sampled = sampler.sample([subject.class_prompt] * options.class_images, range(options.class_images))
    photos = read_directory(options.photos, height, width)[1]
    config = replace(settings.dreambooth, iterations=options.steps, save_every=options.steps)
    instance, kind = (encode_moments(sampler.ldm.autoencoder, images, config.flip) for images in (photos, sampled))
    workload = Workload(
        settings.model,
        height,
        width,
        autocast_dtype=compute.autocast_dtype,
        like_cuda=device.type == "cuda",
        previews=False,
    )
    return Study(base, subject, config, instance, kind, workload, compute)


def learn(study: Study, profile: MemoryProfile) -> tuple[list[float], int]:
    """The loss of each step, and the peak of memory in bytes."""
    gc.collect()  # reference cycles of Lightning would keep the last training alive
    config, device = profile.applied_to(study.config), study.compute.device
    file = read_checkpoint(study.base)
    ldm = ModelSlot(Compute(device)).use(file, settings_of(file, None)[1])
    module = WatchedDreamBooth(ldm, study.subject, study.instance_moments, study.class_moments, config, SEED)
    autocast_dtype = study.compute.autocast_dtype if config.train_dtype == "fp32" else None

    def fail(module: DreamBooth, step: int) -> None:
        raise AssertionError("nothing should be saved")

    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(EnoughError):
        fit(module, FitOptions(Path(directory), [device], autocast_dtype, "none", step_capture([device])), fail)
    return torch.stack(module.curve).tolist(), module.peak


def predicted_peak(study: Study, profile: MemoryProfile) -> int:
    """Bytes, as `dreambooth.py` predicts them; on CUDA with what the allocator loses, without CUDA's own context."""
    tensors = predict(study.workload, profile.applied_to(study.config)).step
    return tensors + (CUDA_OVERHEAD - CUDA_CONTEXT if study.workload.like_cuda else 0)


def mean_of_first(losses: Sequence[float]) -> float:
    """Of as many steps as `mean_of_last` takes."""
    first = losses[: max(1, len(losses) // LAST)]
    return sum(first) / len(first)


def mean_of_last(losses: Sequence[float]) -> float:
    """Of the last steps."""
    last = losses[-max(1, len(losses) // LAST) :]
    return sum(last) / len(last)


def draw_curves(curves: dict[str, list[float]], size: tuple[int, int] = (960, 540)) -> Image.Image:
    """The running mean of each curve relative to the first one's, which is the line at 1."""
    image = Image.new("RGB", size, "white")
    pen, (width, height), margin = ImageDraw.Draw(image), size, 50
    names = list(curves)
    losses = torch.tensor([curves[name] for name in names], dtype=torch.float64)
    window = max(1, losses.shape[1] // 10)
    means = torch.nn.functional.avg_pool1d(losses[:, None], window, stride=1)[:, 0]
    ratios = means / means[0]
    reach = max(0.02, float((ratios - 1).abs().max()) * 1.1)

    def place(step: int, ratio: float) -> tuple[float, float]:
        x = margin + (width - 2 * margin) * step / max(1, ratios.shape[1] - 1)
        return x, height / 2 - (ratio - 1) / reach * (height / 2 - margin)

    for value in (1 - reach, 1.0, 1 + reach):
        pen.line([place(0, value), place(ratios.shape[1] - 1, value)], fill="#cccccc")
        pen.text((4, place(0, value)[1] - 6), f"{value:.3f}", fill="black")
    for index, name in enumerate(names):
        points = [place(step, float(ratio)) for step, ratio in enumerate(ratios[index])]
        pen.line(points if len(points) > 1 else points * 2, fill=COLOURS[index % len(COLOURS)], width=2)
        pen.text((margin + 8, 8 + 14 * index), name, fill=COLOURS[index % len(COLOURS)])
    pen.text((margin, height - 20), f"loss, mean of {window} steps, relative to the first; steps {window} to "
             f"{losses.shape[1]}", fill="black")  # fmt: skip
    return image


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = script_parser(__doc__)
    parser.add_argument("--ckpt-path", type=Path, help="default: the downloaded weights, else the embedded tiny model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--class-name", default="water bottle")
    parser.add_argument("--photos", type=Path, default=ROOT / "data" / "bottle")
    parser.add_argument("--class-images", type=int, default=8)
    parser.add_argument("--steps", type=number(int, STEADY + 1), default=200, help="at least 2 (default: 200)")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these profiles; 0 is exact")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write the curves as an image")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains with each profile, prints the table and draws the curves."""
    options = parse(arguments)
    say(machine() + "\n")
    study = prepare(options)
    rows, curves, peaks = [], {}, {}
    targets: list[Target] = []
    for index in options.only or range(len(MEMORY_PROFILES)):
        profile = MEMORY_PROFILES[index]
        name, predicted = str(profile), predicted_peak(study, profile)
        losses, peak = learn(study, profile)
        curves[name], peaks[name] = losses, {"predicted": predicted, "measured": peak}
        last = mean_of_last(losses)
        ratio = last / mean_of_last(next(iter(curves.values())))
        part = 100 * peak / predicted
        figures = [f"{predicted / MIB:.1f}", f"{peak / MIB:.1f}", f"{part:.1f}"]
        rows.append([name, *figures, f"{mean_of_first(losses):.4f}", f"{last:.4f}", f"{ratio:.3f}"])
        targets.append(
            Target(f"{name}: last losses apart from the first row's", 100 * abs(ratio - 1), LOSS_TARGET, at_most=True)
        )
        if predicted > FEW_OVERHEADS * CUDA_OVERHEAD or not study.workload.like_cuda:
            targets.append(
                Target(f"{name}: peak apart from its prediction", abs(part - 100), PEAK_TARGET, at_most=True)
            )
    untrained = replace(study, config=replace(study.config, learning_rate=NO_LEARNING))
    losses = curves[UNTRAINED] = learn(untrained, MEMORY_PROFILES[0])[0]
    last = mean_of_last(losses)
    ratio = last / mean_of_last(next(iter(curves.values())))
    rows.append([UNTRAINED, "-", "-", "-", f"{mean_of_first(losses):.4f}", f"{last:.4f}", f"{ratio:.3f}"])
    header = ["profile", "predicted peak, MiB", "measured", "of the prediction, %", "loss, first quarter"]
    say(table([*header, "last quarter", "to the first row's"], rows))
    if options.sheet:
        draw_curves(curves).save(options.sheet)
    write_json(options.json, {"machine": machine(), "peaks": peaks, "losses": curves})
    return verdict(targets, options.strict)


if __name__ == "__main__":
    run_script(main)

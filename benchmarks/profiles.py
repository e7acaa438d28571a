"""What does each memory profile take, and does any of them learn worse?

    python benchmarks/profiles.py
    python benchmarks/profiles.py --ckpt-path weights/sd-v1/sd-v1-4.ckpt --device cuda --sheet curves.png

Trains the same subject on the same batches (noise and timesteps included) once with each combination of optimizer, type
of weights and gradient checkpointing that `--vram` chooses from, and compares the losses step by step with those of the
first, which is exact. The peak is measured beside its prediction: on CUDA the allocator's, without what it reserves and
without CUDA's context; on the CPU that of tensors.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.tools.common import Drawer, machine, say, table, write_json  # noqa: E402
from ldm.checkpoint.reading import read_checkpoint  # noqa: E402
from ldm.commands.models import ModelSlot, base_weights, settings_of  # noqa: E402
from ldm.commands.placement import Compute, parse_device, training_compute  # noqa: E402
from ldm.data.dreambooth import BatchPlan, DreamBoothBatches, encode_moments  # noqa: E402
from ldm.data.images import read_directory  # noqa: E402
from ldm.errors import UserError  # noqa: E402
from ldm.nn.footprint import Footprint  # noqa: E402
from ldm.training.config import DreamBoothConfig, Subject  # noqa: E402
from ldm.training.dreambooth import DreamBooth  # noqa: E402
from ldm.training.memory import COMBINATIONS, Combination, Workload, predict  # noqa: E402

SEED = 42
MIB = 2**20
LAST = 4
"""The losses of the last so manyth of the steps are compared."""
COLOURS = ("black", "#c03030", "#3060c0", "#309040", "#b07010", "#7040a0", "#109090", "#a03070", "#707070")


@dataclass(frozen=True)
class Lesson:
    """What is taught, the same to all."""

    base: Path
    subject: Subject
    config: DreamBoothConfig
    instance_moments: Tensor
    class_moments: Tensor
    workload: Workload
    compute: Compute


class Quiet(DreamBooth):
    """Logs nothing."""

    def log(self, *args: object, **kwargs: object) -> None:
        """Nobody reads it."""


def prepare(options: argparse.Namespace) -> Lesson:
    """Draws class pictures and encodes everything."""
    device = parse_device(options.device)
    compute = training_compute(device, "auto")
    base = options.ckpt_path or base_weights(None)
    file = read_checkpoint(base)
    settings = settings_of(file, None)[1]
    height, width = settings.sampling.height, settings.sampling.width
    subject = Subject(options.class_name)
    drawer = Drawer(base, device)
    drawn = drawer.draw([subject.class_prompt] * options.class_pictures, range(options.class_pictures))
    photos = read_directory(options.photos, height, width)[1]
    config = replace(settings.dreambooth, iterations=options.steps)
    instance, kind = (encode_moments(drawer.ldm.autoencoder, images, config.flip) for images in (photos, drawn))
    cuda = device.type == "cuda"
    workload = Workload(
        settings.model, height, width, autocast_dtype=compute.autocast_dtype, like_cuda=cuda, previews=False
    )
    return Lesson(base, subject, config, instance, kind, workload, compute)


@contextlib.contextmanager
def measured(module: DreamBooth, optimizer: torch.optim.Optimizer, peaks: list[int]) -> Iterator[None]:
    """Notes the peak of what is done inside."""
    device = module.ldm.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield
        peaks.append(torch.cuda.max_memory_allocated(device))
    else:
        with Footprint() as footprint:
            footprint.watch(list(module.parameters()), list(module.buffers()), list(optimizer.state.values()))
            yield
        peaks.append(footprint.peak)


def learn(lesson: Lesson, combination: Combination) -> tuple[list[float], int]:
    """The loss of each step, and the peak of a steady one in bytes."""
    config, device = combination.applied_to(lesson.config), lesson.compute.device
    file = read_checkpoint(lesson.base)
    ldm = ModelSlot(Compute(device)).use(file, settings_of(file, None)[1])
    module = Quiet(ldm, lesson.subject, lesson.instance_moments, lesson.class_moments, config, SEED).to(device)
    if device.type == "cuda":
        module.on_train_start()
    batches = DreamBoothBatches(
        lesson.instance_moments, lesson.class_moments, BatchPlan(SEED, config.batch_size, ldm.schedule.num_timesteps)
    )
    optimizer = module.build_optimizer(fused=device.type in ("cpu", "cuda"))
    autocast = lesson.compute.autocast if config.train_dtype == "fp32" else contextlib.nullcontext
    losses, peaks = [], []
    for step in tqdm(range(config.iterations), desc=str(combination), unit="step"):
        batch = {name: tensor.to(device) for name, tensor in batches.batch(step).items()}
        with measured(module, optimizer, peaks) if step == 1 else contextlib.nullcontext():
            with autocast():
                loss = module.training_step(batch, step)
            loss.backward()
            losses.append(loss.detach())
            del loss
            torch.nn.utils.clip_grad_norm_(module.trained_parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    return torch.stack(losses).tolist(), max(peaks)


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt-path", type=Path, help="default: the downloaded weights, else the embedded tiny model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--class-name", default="water bottle")
    parser.add_argument("--photos", type=Path, default=ROOT / "data" / "bottle")
    parser.add_argument("--class-pictures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these combinations; 0 is exact")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="draw the curves")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains with each, prints and draws."""
    options = parse(arguments)
    say(machine() + "\n")
    lesson = prepare(options)
    rows, curves, exact = [], {}, 0.0
    for index in options.only or range(len(COMBINATIONS)):
        combination = COMBINATIONS[index]
        predicted = predict(lesson.workload, combination.applied_to(lesson.config)).step
        losses, peak = learn(lesson, combination)
        curves[str(combination)] = losses
        last = mean_of_last(losses)
        exact = exact or last
        first = sum(losses[: len(losses) // LAST or 1]) / (len(losses) // LAST or 1)
        figures = [f"{predicted / MIB:.1f}", f"{peak / MIB:.1f}", f"{first:.4f}", f"{last:.4f}", f"{last / exact:.3f}"]
        rows.append([combination, *figures])
    header = [
        "combination",
        "predicted peak, MiB",
        "measured",
        "loss, first quarter",
        "last quarter",
        "to the first row's",
    ]
    say(table(header, rows))
    if options.sheet:
        draw_curves(curves).save(options.sheet)
    write_json(options.json, {"machine": machine(), "losses": curves})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")

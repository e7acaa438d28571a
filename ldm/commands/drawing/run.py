"""txt2img and img2img: draws with one checkpoint or compares many, each column of the grid from the same noise."""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm.checkpoint.discovery import Found
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.drawing.checkpoints import find_to_draw, labels_of, prefixes_of, usable
from ldm.commands.drawing.grid import labelled_grid
from ldm.commands.drawing.job import Job, job_from, png_text, sampling_flags
from ldm.commands.models import ModelSlot, settings_of
from ldm.commands.placement import Compute, drawing_compute, explain_out_of_memory, parse_device
from ldm.commands.record import write_record
from ldm.data.images import save_png, to_image
from ldm.diffusion.sampling import sample_images
from ldm.files import make_numbered_dir, slug

log = logging.getLogger(__name__)


def txt2img(options: argparse.Namespace) -> None:
    """Draws from prompts."""
    _draw(options, "txt2img")


def img2img(options: argparse.Namespace) -> None:
    """Draws from prompts and a picture."""
    _draw(options, "img2img")


def _draw(options: argparse.Namespace, name: str) -> None:
    compute = drawing_compute(parse_device(options.device), options.precision)
    checkpoints = find_to_draw(options.ckpt_path)
    checkpoints, settings = usable(checkpoints, options.config)
    job = job_from(options, settings)

    output_dir = make_numbered_dir(options.output_dir, name)
    write_record(
        output_dir / "run.yaml",
        vars(options) | sampling_flags(job.sampling) | {"batch_size": job.batch_size, "device": str(compute.device)},
        seeds=job.seeds,
        checkpoints=[str(found.path) for found in checkpoints],
    )
    with explain_out_of_memory("a smaller --batch-size or --hw needs less"):
        drawn = _draw_all(checkpoints, options.config, job, compute, output_dir)
    _save_grid(output_dir / "grid.png", drawn, job)
    log.info("%d pictures and grid.png in %s", sum(len(row.pictures) for row in drawn), output_dir)


@dataclass(frozen=True)
class Row:
    """What one checkpoint drew: its label, its prompts, and pictures[prompt_index, seed]."""

    label: str
    prompts: list[str]
    pictures: dict[tuple[int, int], Path]


def _draw_all(checkpoints: list[Found], config: Path | None, job: Job, compute: Compute, output_dir: Path) -> list[Row]:
    """Draws the job with each checkpoint in turn."""
    slot = ModelSlot(compute)
    labels = labels_of(checkpoints) if len(checkpoints) > 1 else [""]
    rows = []
    per_checkpoint = max(1, len(job.prompts)) * len(job.seeds)
    with tqdm(total=len(checkpoints) * per_checkpoint, desc="drawing", unit="img") as bar:
        for found, label, prefix in zip(checkpoints, labels, prefixes_of(labels), strict=True):
            file = read_checkpoint(found.path)
            _, settings = settings_of(file, config)
            slot.use(file, settings)
            prompts = job.prompts or [found.info.instance_prompt or settings.sampling.prompt]
            rows.append(Row(label, prompts, _draw_one(slot, found, prompts, job, compute, output_dir, prefix, bar)))
    return rows


def _draw_one(
    slot: ModelSlot,
    found: Found,
    prompts: list[str],
    job: Job,
    compute: Compute,
    output_dir: Path,
    prefix: str,
    bar: tqdm,
) -> dict[tuple[int, int], Path]:
    """Draws every prompt with every seed, in batches that cross prompts."""
    todo = [(index, seed) for index in range(len(prompts)) for seed in job.seeds]
    pictures = {}
    for start in range(0, len(todo), job.batch_size):
        batch = todo[start : start + job.batch_size]
        images = _sample(slot, [prompts[index] for index, _ in batch], [seed for _, seed in batch], job, compute)
        for (index, seed), image in zip(batch, images, strict=True):
            pictures[index, seed] = output_dir / f"{prefix}{index:02d}-{slug(prompts[index], 40)}_{seed}.png"
            save_png(pictures[index, seed], to_image(image), png_text(prompts[index], seed, job, found))
            bar.update()
    return pictures


def _sample(slot: ModelSlot, prompts: list[str], seeds: list[int], job: Job, compute: Compute) -> Tensor:
    assert slot.ldm is not None
    with compute.autocast():
        context = torch.cat([slot.context(prompt) for prompt in prompts])
        uncond_context = slot.context(job.negative_prompt).expand(len(prompts), -1, -1)
        with tqdm(total=job.sampling.num_steps, desc="denoising", unit="step", leave=False, position=1) as steps:
            return sample_images(
                slot.ldm,
                context,
                uncond_context,
                seeds,
                job.sampling,
                job.init,
                on_step=steps.update,
            )


def _save_grid(path: Path, rows: list[Row], job: Job) -> None:
    """Rows are checkpoints, columns are prompts x seeds."""
    own_subject = not job.prompts
    columns = [(index, seed) for index in range(max(1, len(job.prompts))) for seed in job.seeds]
    grid = labelled_grid(
        [[_loaded(row.pictures[column]) if column in row.pictures else None for column in columns] for row in rows],
        ["\n".join([row.label, row.prompts[0] if own_subject else ""]).strip() or path.parent.name for row in rows],
        ["\n".join(["" if own_subject else job.prompts[index], f"seed {seed}"]).strip() for index, seed in columns],
    )
    save_png(path, grid)


def _loaded(path: Path) -> Image.Image:
    """The picture, with its file closed again."""
    with Image.open(path) as file:
        file.load()
        return file

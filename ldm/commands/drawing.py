"""txt2img and img2img: draws with one checkpoint or compares many, each column of the grid from the same noise."""

import argparse
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm.checkpoint.discovery import Found, find_checkpoints
from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.grid import labelled_grid
from ldm.commands.models import ModelSlot, SamplingDefaults, Settings, base_weights, settings_of, snapped_size
from ldm.commands.placement import Compute, drawing_compute, explain_out_of_memory, parse_device
from ldm.commands.record import write_record
from ldm.data.images import fit, read_image, save_png, to_image, to_tensor
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.sampling import InitImage, SamplingConfig, sample_images
from ldm.errors import UserError
from ldm.files import make_numbered_dir, slug

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything that the pictures of one call share."""

    prompts: list[str]
    """Empty: each checkpoint draws its own subject."""
    negative_prompt: str
    seeds: list[int]
    sampling: SamplingConfig
    batch_size: int
    init: InitImage | None = None
    init_path: Path | None = None


def txt2img(options: argparse.Namespace) -> None:
    """Draws from prompts."""
    _draw(options, "txt2img")


def img2img(options: argparse.Namespace) -> None:
    """Draws from prompts and a picture."""
    _draw(options, "img2img")


def _draw(options: argparse.Namespace, name: str) -> None:
    compute = drawing_compute(parse_device(options.device), options.precision)
    checkpoints = _checkpoints(options.ckpt_path)
    checkpoints, settings = _usable(checkpoints, options.config)
    job = _job(options, settings)

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


def _checkpoints(path: Path | None) -> list[Found]:
    """The checkpoint, or all below the directory; what is left out is named."""
    path = base_weights(path)
    if not path.is_dir():
        return [Found(path, checkpoint_info(read_checkpoint(path)))]
    found, skipped = find_checkpoints(path)
    for one in skipped:
        log.warning("left out %s: %s", one.path, one.reason)
    if not found:
        raise UserError(f"there is no checkpoint below {path}; dreambooth.py writes some")
    log.info("comparing %d checkpoints below %s", len(found), path)
    return found


def _usable(checkpoints: list[Found], config: Path | None) -> tuple[list[Found], Settings]:
    """Those that hold a whole model of the shape most of them share, and its settings; the others are named."""
    whole: list[tuple[Found, Settings]] = []
    for found in checkpoints:
        try:
            file = read_checkpoint(found.path)
            _, settings = settings_of(file, config)
            raise_unless_whole(file, settings.model)
            whole.append((found, settings))
        except UserError as error:
            if len(checkpoints) == 1:
                raise
            log.warning("left out %s: %s", found.path, error)
    if not whole:
        raise UserError("none of the checkpoints can be used")
    (shape, _), *_ = Counter(settings.model for _, settings in whole).most_common(1)
    for found, settings in whole:
        if settings.model != shape:
            log.warning("left out %s: a model of another shape than most of the others", found.path)
    kept = [(found, settings) for found, settings in whole if settings.model == shape]
    return [found for found, _ in kept], kept[0][1]


def _job(options: argparse.Namespace, settings: Settings) -> Job:
    defaults = settings.sampling
    init_path = getattr(options, "init_img", None)
    photo = read_image(init_path) if init_path else None
    default_size = (defaults.height, defaults.width) if photo is None else _size_like(photo, defaults)
    height, width = snapped_size(settings.model, options.hw, default_size)
    return Job(
        prompts=options.prompt or [],
        negative_prompt=options.negative_prompt,
        seeds=[options.seed + i for i in range(options.variations)],
        sampling=sampling_from(options, defaults, height, width),
        batch_size=options.batch_size or defaults.batch_size,
        init=InitImage(to_tensor(fit(photo, height, width)), options.strength) if photo else None,
        init_path=init_path,
    )


def sampling_from(options: argparse.Namespace, defaults: SamplingConfig, height: int, width: int) -> SamplingConfig:
    """The flags where they were given, the model's defaults elsewhere."""
    given = {
        "sampler": options.sampler,
        "num_steps": options.ddim_steps,
        "guidance_scale": options.scale,
        "eta": options.ddim_eta,
    }
    base = SamplingConfig(height, width, defaults.sampler, defaults.num_steps, defaults.guidance_scale, defaults.eta)
    sampling = replace(base, **{name: value for name, value in given.items() if value is not None})
    if not SAMPLERS[sampling.sampler].takes_eta:
        if options.ddim_eta:
            raise UserError(f"--ddim-eta is for the ddim sampler; {sampling.sampler} adds no noise")
        sampling = replace(sampling, eta=0.0)
    return sampling


def sampling_flags(sampling: SamplingConfig) -> dict[str, Any]:
    """The flags that mean this."""
    return {
        "hw": [sampling.height, sampling.width],
        "sampler": sampling.sampler,
        "ddim_steps": sampling.num_steps,
        "scale": sampling.guidance_scale,
        "ddim_eta": sampling.eta,
    }


def _size_like(photo: Image.Image, defaults: SamplingDefaults) -> tuple[int, int]:
    """The photo's shape at about the area the model draws best."""
    scale = (defaults.height * defaults.width / (photo.height * photo.width)) ** 0.5
    return round(photo.height * scale), round(photo.width * scale)


@dataclass(frozen=True)
class Row:
    """What one checkpoint drew: its label, its prompts, and pictures[prompt_index, seed]."""

    label: str
    prompts: list[str]
    pictures: dict[tuple[int, int], Path]


def _draw_all(checkpoints: list[Found], config: Path | None, job: Job, compute: Compute, output_dir: Path) -> list[Row]:
    """Draws the job with each checkpoint in turn."""
    slot = ModelSlot(compute)
    labels = _labels(checkpoints) if len(checkpoints) > 1 else [""]
    rows = []
    per_checkpoint = max(1, len(job.prompts)) * len(job.seeds)
    with tqdm(total=len(checkpoints) * per_checkpoint, desc="drawing", unit="img") as bar:
        for found, label, prefix in zip(checkpoints, labels, _prefixes(labels), strict=True):
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


def _labels(checkpoints: list[Found]) -> list[str]:
    """For a checkpoint of ours "can-1 step 200", else its name; the whole path where that is not unique."""
    labels = [
        f"{found.path.parent.name} step {found.info.step}" if found.info.step else found.path.stem
        for found in checkpoints
    ]
    return [
        label if labels.count(label) == 1 else str(found.path.with_suffix(""))
        for label, found in zip(labels, checkpoints, strict=True)
    ]


def _prefixes(labels: list[str]) -> list[str]:
    """Beginnings of file names, one per checkpoint; numbered where labels read alike as file names."""
    slugs = [slug(label) for label in labels]
    return [
        f"{number:02d}-{one}_" if slugs.count(one) > 1 else f"{one}_" if label else ""
        for number, (one, label) in enumerate(zip(slugs, labels, strict=True))
    ]


def png_text(prompt: str, seed: int, job: Job, found: Found) -> dict[str, object]:
    """The text chunks of a picture: one key each, and `parameters` as other tools write and read it."""
    sampling = job.sampling
    size = f"{sampling.width}x{sampling.height}"
    negative = f"Negative prompt: {job.negative_prompt}\n" if job.negative_prompt else ""
    text: dict[str, object] = {
        "prompt": prompt,
        "negative_prompt": job.negative_prompt,
        "seed": seed,
        "sampler": sampling.sampler,
        "steps": sampling.num_steps,
        "scale": sampling.guidance_scale,
        "eta": sampling.eta,
        "size": size,
        "checkpoint": found.path,
        "checkpoint_step": found.info.step,
    }
    if job.init is not None:
        text |= {"init_img": job.init_path, "strength": job.init.strength}
    parameters = (
        f"{prompt}\n{negative}Steps: {sampling.num_steps}, Sampler: {sampling.sampler}, "
        f"CFG scale: {sampling.guidance_scale}, Seed: {seed}, Size: {size}, Model: {found.path.stem}"
    )
    return {**text, "parameters": parameters}


def _save_grid(path: Path, rows: list[Row], job: Job) -> None:
    """Rows are checkpoints, columns are prompts x seeds."""
    own_subject = not job.prompts
    columns = [(index, seed) for index in range(max(1, len(job.prompts))) for seed in job.seeds]
    grid = labelled_grid(
        [[Image.open(row.pictures[column]) if column in row.pictures else None for column in columns] for row in rows],
        ["\n".join([row.label, row.prompts[0] if own_subject else ""]).strip() or path.parent.name for row in rows],
        ["\n".join(["" if own_subject else job.prompts[index], f"seed {seed}"]).strip() for index, seed in columns],
    )
    save_png(path, grid)

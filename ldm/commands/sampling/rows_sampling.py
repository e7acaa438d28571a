"""The drawing loop: each checkpoint in turn draws what is missing in its row."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ldm.commands.sampling.job import Job, png_text
from ldm.commands.sampling.reading import ReadAhead
from ldm.commands.sampling.rows import PlannedImage, PlannedRow
from ldm.commands.sampling.validity import KEY, is_valid
from ldm.data.writing import ImageWriter
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.parallel import WorkerPool
from ldm.diffusion.sampling import sample_images
from ldm.errors import UserError, named_in_errors
from ldm.progress import Progress
from ldm.runtime.batching import worker_pool
from ldm.runtime.compiling import compile_unet
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot

log = logging.getLogger(__name__)

Batch = Sequence[PlannedImage]

BATCHES_WAITING = 3
"""So many batches at most are in memory for being written."""


def sample_rows(rows: Sequence[PlannedRow], job: Job, compute: Compute, directory: Path) -> None:
    """Draws every image that is missing in `directory` or no longer valid; a checkpoint without any isn't read.

    In a comparison a checkpoint that can't draw is named, and the others go on.
    """
    batch_size = images_at_a_time(job, compute)
    work = [(row, _missing(row, directory)) for row in rows]
    work = [(row, missing) for row, missing in work if missing]
    slot = ModelSlot(compute)
    with (
        Progress(sum(len(missing) for _, missing in work), "drawing", "img") as progress,
        ImageWriter(BATCHES_WAITING * batch_size) as writer,
        ReadAhead([row.checkpoint for row, _ in work]) as reader,
    ):
        for row, missing in work:
            try:
                file = reader.take()
                with named_in_errors(row.checkpoint.path, torch.OutOfMemoryError):
                    ldm = slot.use(file, row.checkpoint.settings, row.checkpoint.tokenizer)
            except UserError as error:  # it was there when the rows were planned
                if len(rows) == 1:
                    raise
                log.warning("left out %s: %s", row.checkpoint.path, error)
                continue
            batches = _batches(row, missing, batch_size)
            compile_unet(ldm, job.compile, len(batches) * job.steps_run)
            crew = worker_pool(ldm, job.sampling)
            draw = partial(_sample, slot, _prepared(job, ldm, compute), compute, show_steps=crew.workers == 1)
            for batch, images in _drawn(row, batches, crew, draw, alone=len(rows) == 1):
                for planned, image in zip(batch, images, strict=True):
                    if planned.file in missing:
                        text = png_text(planned.prompt, planned.seed, job, row.checkpoint) | {KEY: planned.key}
                        writer.put(directory / planned.file, image, text)
                        progress.update()


def _prepared(job: Job, ldm: LatentDiffusion, compute: Compute) -> Job:
    """The job with the image that img2img starts from encoded once for all."""
    if job.init is None:
        return job
    with compute.autocast():
        return replace(job, init=job.init.encoded(ldm))


def _drawn(
    row: PlannedRow, batches: Sequence[Batch], crew: WorkerPool, draw: Callable[[Batch], Tensor], alone: bool
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches and their images, until one can't be drawn; in a comparison that is only said."""
    path = row.checkpoint.path
    try:
        with nullcontext() if alone else named_in_errors(path, torch.OutOfMemoryError):
            yield from crew.map(batches, draw)
    except UserError as error:
        if alone:
            raise
        log.warning("left out the rest of %s: %s", path, error)


def images_at_a_time(job: Job, compute: Compute) -> int:
    """How many images go through the networks together.

    On the CPU each goes alone: libraries choose their kernels by the size of a batch and round differently, so that
    pixels would depend on the batch. In a comparison they may not.
    """
    return 1 if compute.device.type == "cpu" else job.batch_size


def _missing(row: PlannedRow, directory: Path) -> set[str]:
    """The files of a row that are to be drawn."""
    return {one.file for one in row.images if one and not is_valid(directory / one.file, one.key)}


def _batches(row: PlannedRow, missing: set[str], size: int) -> list[Batch]:
    """A row's images in batches that cross prompts, without those of which nothing is missing.

    They are cut as if all were missing: what is drawn later is drawn in the same company, and rounds alike.
    """
    images = [one for one in row.images if one]
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    return [batch for batch in batches if any(one.file in missing for one in batch)]


def _sample(slot: ModelSlot, job: Job, compute: Compute, batch: Batch, show_steps: bool) -> Tensor:
    assert slot.ldm is not None
    with (
        compute.autocast(),
        Progress(job.steps_run, "denoising", "step", inner=True, silent=not show_steps) as steps,
    ):
        context = torch.cat([slot.context(image.prompt) for image in batch])
        uncond_context = slot.context(job.negative_prompt).expand(len(batch), -1, -1)
        return sample_images(
            slot.ldm,
            classifier_free(context, uncond_context, job.sampling.guidance_scale),
            [image.seed for image in batch],
            job.sampling,
            job.init,
            on_step=steps.update,
        )

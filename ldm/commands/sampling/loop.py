"""The sampling loop: each checkpoint in turn samples the images that its row lacks."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from ldm.background import CancellingPool
from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.reading import CheckpointFile
from ldm.commands.sampling.job import Job, png_text
from ldm.commands.sampling.rows import KEY, TablePlan
from ldm.data.writing import ImageWriter
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.parallel import WorkerPool
from ldm.diffusion.sampling import sample_images
from ldm.errors import UserError, named_in_errors
from ldm.progress import Progress
from ldm.report.comparison import Cell
from ldm.runtime.batching import worker_pool
from ldm.runtime.compiling import compile_unet
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot

log = logging.getLogger(__name__)

Batch = Sequence[tuple[Cell, int]]
"""Images and their seeds."""

BATCHES_WAITING = 3
"""At most so many batches wait in memory to be written."""


def sample_rows(plan: TablePlan, job: Job, compute: Compute, directory: Path) -> None:
    """Samples every image that is missing in `directory` or no longer valid; only checkpoints that have some are read.

    In a comparison a checkpoint that fails is left out with a warning, and the others go on.
    """
    alone, batch_size = len(plan.rows) == 1, images_at_a_time(job, compute)
    work = []
    for row, checkpoint in zip(plan.rows, plan.checkpoints, strict=True):
        missing = {cell.file for cell in row.cells if cell and not plan.is_there(directory, cell)}
        images = [(cell, column.seed) for cell, column in zip(row.cells, plan.columns, strict=True) if cell]
        if missing:
            work.append((checkpoint, missing, _batches(images, missing, batch_size)))
    slot = ModelSlot(compute)
    with (
        Progress(sum(len(missing) for _, missing, _ in work), "sampling", "img") as progress,
        ImageWriter(BATCHES_WAITING * batch_size) as writer,
        ReadAhead([checkpoint for checkpoint, _, _ in work]) as reader,
    ):
        for checkpoint, missing, batches in work:
            try:
                file = reader.take()
                with named_in_errors(checkpoint.path, torch.OutOfMemoryError):
                    slot.use(file, checkpoint.settings, checkpoint.tokenizer)
            except UserError as error:  # it could be read when the rows were planned
                if alone:
                    raise
                log.warning("left out %s: %s", checkpoint.path, error)
                continue
            with closing(_sampled(slot, batches, job, compute, checkpoint.path, alone)) as sampled:
                for (cell, seed), image in sampled:
                    if cell.file in missing:
                        text = png_text(cell.prompt, seed, job, checkpoint) | {KEY: plan.keys[cell.file]}
                        writer.put(directory / cell.file, image, text)
                        progress.update()


def images_at_a_time(job: Job, compute: Compute) -> int:
    """How many images go through the networks together.

    On the CPU each goes alone: libraries choose their kernels by the size of a batch and round differently, so pixels
    would depend on the batch. In a comparison they must not.
    """
    return 1 if compute.device.type == "cpu" else job.batch_size


def _batches(images: Batch, missing: set[str], size: int) -> list[Batch]:
    """A row's images in batches that may span prompts, without the batches of which nothing is missing.

    They are cut as if all images were missing: what is sampled later is in the same batch as in an uninterrupted call,
    and rounds the same.
    """
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    return [batch for batch in batches if any(cell.file in missing for cell, _ in batch)]


def _sampled(
    slot: ModelSlot, batches: Sequence[Batch], job: Job, compute: Compute, path: Path, alone: bool
) -> Generator[tuple[tuple[Cell, int], Tensor], None, None]:
    """Each image (3 h w) with its cell and seed, until one fails; in a comparison that is only a warning."""
    assert slot.ldm is not None
    compile_unet(slot.ldm, job.compile, len(batches) * job.steps_run)
    if job.init is not None:
        with compute.autocast():  # encoded once for all images
            job = replace(job, init=job.init.encoded(slot.ldm))
    pool: WorkerPool = worker_pool(slot.ldm, job.sampling)
    sample: Callable[[Batch], Tensor] = partial(_sample, slot, job, compute, show_steps=pool.workers == 1)
    try:
        with (
            nullcontext() if alone else named_in_errors(path, torch.OutOfMemoryError),
            closing(pool.map(batches, sample)) as results,
        ):
            for batch, images in results:
                yield from zip(batch, images, strict=True)
    except UserError as error:
        if alone:
            raise
        log.warning("left out the rest of %s: %s", path, error)


def _sample(slot: ModelSlot, job: Job, compute: Compute, batch: Batch, show_steps: bool) -> Tensor:
    """The images (b 3 h w) of a batch."""
    assert slot.ldm is not None
    with (
        compute.autocast(),
        Progress(job.steps_run, "denoising", "step", inner=True, silent=not show_steps) as steps,
    ):
        context = torch.cat([slot.context(cell.prompt) for cell, _ in batch])
        uncond_context = slot.context(job.negative_prompt).expand(len(batch), -1, -1)
        return sample_images(
            slot.ldm,
            classifier_free(context, uncond_context, job.sampling.guidance_scale),
            [seed for _, seed in batch],
            job.sampling,
            job.init,
            on_step=steps.update,
        )


# Reading


class Readable(Protocol):
    """A checkpoint file, and digests by which its parts are known."""

    @property
    def path(self) -> Path: ...

    @property
    def digests(self) -> Mapping[str, str]: ...

    def read(self) -> CheckpointFile: ...


class ReadAhead:
    """Reads files in their order, the next one in a thread while the current one samples.

    Of each file, the parts that differ from the file before are read into memory. At most one file is read ahead.
    """

    def __init__(self, files: Sequence[Readable]) -> None:
        self._left = list(files)
        self._before: Mapping[str, str] = {}
        self._pool = CancellingPool(1, "read")
        self._next: Future[CheckpointFile] | None = None
        self._start()

    def take(self) -> CheckpointFile:
        """The next file, and starts reading the one after it. Raises `UserError` if it can't be read."""
        assert self._next is not None, "there is no file left"
        try:
            return self._next.result()
        except UserError:
            self._before = {}  # none of its parts is in memory
            raise
        finally:
            self._start()

    def _start(self) -> None:
        self._next = None
        if self._left:
            one = self._left.pop(0)
            differing = {part for part in PARTS if one.digests[part] != self._before.get(part)}
            self._before = one.digests
            self._next = self._pool.submit(_read, one, differing)

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, traceback)


def _read(one: Readable, parts: set[str]) -> CheckpointFile:
    """The file with these parts in memory; the others stay mapped."""
    with named_in_errors(one.path):
        return one.read().in_memory(tuple(PARTS[part] for part in parts))

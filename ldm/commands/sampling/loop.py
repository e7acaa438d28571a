"""The sampling loop: each checkpoint in turn samples the images that its row lacks."""

import logging
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, nullcontext
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ldm.background import CancellingPool
from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.reading import CheckpointFile
from ldm.checkpoint.saving import hash_file
from ldm.commands.sampling.batches import sample_batches
from ldm.commands.sampling.checkpoints import Checkpoint
from ldm.commands.sampling.job import Frame, Job, Sample, png_text
from ldm.commands.sampling.rows import KEY, TablePlan
from ldm.data.writing import ImageWriter
from ldm.errors import UserError, named_in_errors
from ldm.progress import Progress
from ldm.report.comparison import Cell
from ldm.runtime.batching import images_at_a_time, worker_pool
from ldm.runtime.compiling import compile_unet
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot

log = logging.getLogger(__name__)

Batch = Sequence[tuple[Cell, Sample]]
"""Images and what they are sampled from."""

BATCHES_WAITING = 3
"""At most so many batches wait in memory to be written."""


def sample_rows(plan: TablePlan, job: Job, compute: Compute, directory: Path) -> None:
    """Samples every image that is missing in `directory` or no longer valid; only checkpoints that have some are read.

    In a comparison a checkpoint that fails is left out with a warning, and the others go on.
    """
    alone, batch_size = len(plan.rows) == 1, images_at_a_time(compute.device, job.batch_size)
    work = []
    for row, checkpoint in zip(plan.rows, plan.checkpoints, strict=True):
        missing = {cell.file for cell in row.cells if cell and not plan.is_there(directory, cell)}
        images = [
            (column.init_image, (cell, Sample(cell.prompt, column.seed, column.image_scale)))
            for cell, column in zip(row.cells, plan.columns, strict=True)
            if cell
        ]
        if missing:
            work.append((checkpoint, missing, _by_frame(job, images, missing, batch_size)))
    slot = ModelSlot(compute)
    with (
        CancellingPool(1, "hash") as pool,
        Progress(sum(len(missing) for _, missing, _ in work), "sampling", "img") as progress,
        ImageWriter(BATCHES_WAITING * batch_size) as writer,
        ReadAhead([checkpoint for checkpoint, _, _ in work]) as reader,
    ):
        hashed = pool.submit(_file_hash, work[0][0].path) if alone and work and not work[0][0].base_file else None
        for checkpoint, missing, frames in work:
            try:
                file = reader.take()
                with named_in_errors(checkpoint.path, torch.OutOfMemoryError):
                    slot.use(file, checkpoint.settings, checkpoint.tokenizer)
            except UserError as error:  # it could be read when the rows were planned
                if alone:
                    raise
                log.warning("left out %s: %s", checkpoint.path, error)
                continue
            calls = sum(len(batches) for _, batches in frames) * job.steps_run
            for frame, batches in frames:
                own = job.for_frame(frame)
                with closing(_sampled(slot, batches, own, compute, checkpoint.path, alone, calls)) as sampled:
                    for cell, sample, image in sampled:
                        if cell.file in missing:
                            sha256 = hashed.result() if hashed else ""
                            text = png_text(sample, own, checkpoint, sha256) | {KEY: plan.keys[cell.file]}
                            writer.put(directory / cell.file, image, text)
                            progress.update()


def _file_hash(path: Path) -> str:
    """SHA-256 of a single checkpoint's file, read while the first image is sampled; empty if there is none to read."""
    try:
        return hash_file(path) if path.is_file() else ""
    except (OSError, UserError):
        return ""


def _by_frame(
    job: Job, images: Sequence[tuple[str, tuple[Cell, Sample]]], missing: set[str], size: int
) -> list[tuple[Frame | None, list[Batch]]]:
    """The batches of a row, for each initial image of a folder apart; without a folder all together."""
    frames: Sequence[Frame | None] = job.frames or [None]
    grouped: dict[str, list[tuple[Cell, Sample]]] = {frame.copy if frame else "": [] for frame in frames}
    for init_image, image in images:
        grouped[init_image].append(image)
    both = zip(frames, grouped.values(), strict=True)
    found = [(frame, _batches(some, missing, size)) for frame, some in both]
    return [(frame, batches) for frame, batches in found if batches]


def _batches(images: Batch, missing: set[str], size: int) -> list[Batch]:
    """A row's images in batches that may span prompts, without the batches of which nothing is missing.

    They are cut as if all images were missing: what is sampled later is in the same batch as in an uninterrupted call,
    and rounds the same.
    """
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    return [batch for batch in batches if any(cell.file in missing for cell, _ in batch)]


def _sampled(
    slot: ModelSlot, batches: Sequence[Batch], job: Job, compute: Compute, path: Path, alone: bool, unet_calls: int
) -> Generator[tuple[Cell, Sample, Tensor], None, None]:
    """Each cell with its sample and its image (3 h w), until one fails; in a comparison that is only a warning.

    `unet_calls`: of all images with these weights.
    """
    assert slot.ldm is not None
    compile_unet(slot.ldm, job.compile, unet_calls)
    workers = worker_pool(slot.ldm, job.sampling)
    samples = [[sample for _, sample in batch] for batch in batches]
    try:
        with (
            nullcontext() if alone else named_in_errors(path, torch.OutOfMemoryError),
            Progress(job.steps_run, "denoising", "step", inner=True, silent=workers.workers > 1) as steps,
            closing(sample_batches(slot, samples, job, compute, workers, on_step=steps.update)) as results,
        ):
            for batch, sampled in zip(batches, results, strict=True):
                for (cell, sample), image in zip(batch, sampled.images, strict=True):
                    yield cell, sample, image
                steps.restart()
    except UserError as error:
        if alone:
            raise
        log.warning("left out the rest of %s: %s", path, error)


# Reading


class ReadAhead:
    """Reads files in their order, the next one in a thread while the current one samples.

    Of each file, the parts that differ from the file before are read into memory. At most one file is read ahead.
    """

    def __init__(self, files: Sequence[Checkpoint]) -> None:
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


def _read(one: Checkpoint, parts: set[str]) -> CheckpointFile:
    """The file with these parts in memory; the others stay mapped."""
    with named_in_errors(one.path):
        return one.read().in_memory(tuple(PARTS[part] for part in parts))

"""Draws class pictures on one device or several; picture i has the same seed whichever device draws it."""

import sys
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn
from tqdm import tqdm

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.batching import batch_that_fits, drawing_crew
from ldm.commands.compiling import speed_up
from ldm.commands.models import ModelSlot, Settings
from ldm.commands.out_of_memory import explain_out_of_memory
from ldm.commands.placement import drawing_compute
from ldm.errors import UserError
from ldm.training.class_images import ClassImages

ADVICE = "a smaller --generation-batch-size or --hw needs less"


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn, with which weights, on which devices."""

    cache: ClassImages
    missing: list[int]
    batch_size: int | None
    """None: as many as fit on a device."""
    base: Path
    tokenizer: Path
    settings: Settings
    devices: list[torch.device]
    precision: str
    compile: str = "auto"


def draw_class_images(drawing: Drawing) -> None:
    """Draws the missing pictures; each further device gets a process of its own."""
    if len(drawing.devices) == 1:
        with explain_out_of_memory(ADVICE):
            _draw_share(0, drawing)
        return
    errors = torch.multiprocessing.get_context("spawn").SimpleQueue()
    try:
        spawn(_draw_share_in_process, (errors, drawing), nprocs=len(drawing.devices))
    except (ProcessExitedException, ProcessRaisedException) as error:
        if errors.empty():
            raise
        raise UserError(errors.get()) from error


def _draw_share_in_process(rank: int, errors: "SimpleQueue[str]", drawing: Drawing) -> None:
    """Sends a user's error to the process that will tell it."""
    try:
        with explain_out_of_memory(ADVICE):
            _draw_share(rank, drawing)
    except UserError as error:
        errors.put(str(error))
        sys.exit(2)


def _draw_share(rank: int, drawing: Drawing) -> None:
    """Device `rank` draws every n-th picture of n devices."""
    cache, device = drawing.cache, drawing.devices[rank]
    indices = drawing.missing[rank :: len(drawing.devices)]
    compute = drawing_compute(device, drawing.precision)
    batch_size = drawing.batch_size or batch_that_fits(
        drawing.settings, cache.sampling, compute.dtype, device, len(indices)
    )
    ldm = ModelSlot(compute).use(read_checkpoint(drawing.base), drawing.settings, drawing.tokenizer)
    speed_up(ldm, drawing.compile, -(-len(indices) // batch_size) * cache.sampling.num_steps)
    crew = drawing_crew(ldm, cache.sampling)
    with (
        tqdm(total=len(indices), desc="class pictures", unit="img", position=2 * rank) as bar,
        tqdm(
            total=cache.sampling.num_steps,
            desc="denoising",
            unit="step",
            leave=False,
            position=2 * rank + 1,
            disable=crew.workers > 1,
        ) as steps,
    ):
        for drawn, _ in enumerate(cache.draw(ldm, indices, batch_size, on_step=steps.update, crew=crew), 1):
            bar.update()
            if drawn % batch_size == 0:
                steps.reset()

"""Draws class pictures on one device or several; picture i has the same seed whichever device draws it."""

from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.models import ModelSlot, Settings
from ldm.commands.placement import drawing_compute
from ldm.training.class_images import ClassImages


def draw_class_images(
    cache: ClassImages, missing: list[int], batch_size: int, base: Path, settings: Settings, devices: list[torch.device]
) -> None:
    """Draws the missing pictures; each further device gets a process of its own."""
    arguments = (cache, missing, batch_size, base, settings, devices)
    if len(devices) == 1:
        _draw_share(0, *arguments)
    else:
        spawn(_draw_share, arguments, nprocs=len(devices))


def _draw_share(
    rank: int,
    cache: ClassImages,
    missing: list[int],
    batch_size: int,
    base: Path,
    settings: Settings,
    devices: list[torch.device],
) -> None:
    ldm = ModelSlot(drawing_compute(devices[rank], "auto")).use(read_checkpoint(base), settings)
    indices = missing[rank :: len(devices)]
    with (
        tqdm(total=len(indices), desc="class pictures", unit="img", position=2 * rank) as bar,
        tqdm(
            total=cache.sampling.num_steps, desc="denoising", unit="step", leave=False, position=2 * rank + 1
        ) as steps,
    ):
        for drawn, _ in enumerate(cache.draw(ldm, indices, batch_size, on_step=steps.update), 1):
            bar.update()
            if drawn % batch_size == 0:
                steps.reset()

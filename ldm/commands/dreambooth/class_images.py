"""Draws class images on one device or several; image i has the same seed whichever device draws it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth.plan import Plan
from ldm.processes import run_together
from ldm.progress import Progress
from ldm.runtime.batching import batch_that_fits, worker_pool
from ldm.runtime.compiling import compile_unet
from ldm.runtime.devices import explain_out_of_memory, sampling_compute
from ldm.runtime.models import ModelSlot, Settings
from ldm.training.class_images import DIRECTORY, ClassImages

ADVICE = "a smaller --generation-batch-size or --hw needs less"


@dataclass(frozen=True)
class ClassImageJob:
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


def drawing_precision(plan: Plan) -> str:
    """What class images are drawn in."""
    return "full" if plan.options.precision == "full" else "auto"


def class_image_cache(plan: Plan, *beside: Path) -> ClassImages:
    """Where a run's class images are, or will be: in the folder beside the first of the directories that has them."""
    return ClassImages(
        root=beside[0] / DIRECTORY,
        prompt=plan.subject.class_prompt,
        base_sha256=plan.base_sha256,
        sampling=plan.class_sampling,
        seed=plan.options.seed,
        precision=str(sampling_compute(plan.devices[0], drawing_precision(plan)).dtype).removeprefix("torch."),
        tokenizer=plan.tokenizer_digest,
        model=asdict(plan.settings.model),
    ).found_in([directory / DIRECTORY for directory in beside])


def sample_class_images(drawing: ClassImageJob) -> None:
    """Draws the missing images; each of several devices gets a process of its own."""
    with Progress(len(drawing.missing), "class images", "img") as progress:
        if len(drawing.devices) == 1:
            _sample_share(0, progress.update, drawing, show_steps=True)
        else:
            run_together(_sample_share, len(drawing.devices), drawing, False, on_done=progress.update)


def _sample_share(rank: int, done: Callable[[int], None], drawing: ClassImageJob, show_steps: bool) -> None:
    """Device `rank` draws every n-th image of n devices."""
    cache, device = drawing.cache, drawing.devices[rank]
    indices = drawing.missing[rank :: len(drawing.devices)]
    with explain_out_of_memory(ADVICE):
        compute = sampling_compute(device, drawing.precision)
        batch_size = drawing.batch_size or batch_that_fits(
            drawing.settings, cache.sampling, compute.dtype, device, len(indices)
        )
        ldm = ModelSlot(compute).use(read_checkpoint(drawing.base), drawing.settings, drawing.tokenizer)
        compile_unet(ldm, drawing.compile, -(-len(indices) // batch_size) * cache.sampling.num_steps)
        crew = worker_pool(ldm, cache.sampling)
        alone = show_steps and crew.workers == 1
        with Progress(cache.sampling.num_steps, "denoising", "step", inner=True, silent=not alone) as steps:
            for drawn, _ in enumerate(cache.draw(ldm, indices, batch_size, on_step=steps.update, crew=crew), 1):
                done(1)
                if drawn % batch_size == 0:
                    steps.restart()

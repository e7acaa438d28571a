"""Draws class pictures on one device or several; picture i has the same seed whichever device draws it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.batching import batch_that_fits, drawing_crew
from ldm.commands.compiling import speed_up
from ldm.commands.dreambooth.plan import Plan
from ldm.commands.models import ModelSlot, Settings
from ldm.commands.out_of_memory import explain_out_of_memory
from ldm.commands.placement import drawing_compute
from ldm.processes import run_together
from ldm.progress import Progress
from ldm.training.class_images import DIRECTORY, ClassImages

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


def drawing_precision(plan: Plan) -> str:
    """What class pictures are drawn in."""
    return "full" if plan.options.precision == "full" else "auto"


def class_image_cache(plan: Plan, *beside: Path) -> ClassImages:
    """Where a run's class pictures are, or will be: in the folder beside the first of the directories that has them."""
    return ClassImages(
        root=beside[0] / DIRECTORY,
        prompt=plan.subject.class_prompt,
        base_sha256=plan.base_sha256,
        sampling=plan.class_sampling,
        seed=plan.options.seed,
        precision=str(drawing_compute(plan.devices[0], drawing_precision(plan)).dtype).removeprefix("torch."),
        tokenizer=plan.tokenizer_digest,
        model=asdict(plan.settings.model),
    ).found_in([directory / DIRECTORY for directory in beside])


def draw_class_images(drawing: Drawing) -> None:
    """Draws the missing pictures; each of several devices gets a process of its own."""
    with Progress(len(drawing.missing), "class pictures", "img") as progress:
        if len(drawing.devices) == 1:
            _draw_share(0, progress.update, drawing, show_steps=True)
        else:
            run_together(_draw_share, len(drawing.devices), drawing, False, on_done=progress.update)


def _draw_share(rank: int, done: Callable[[int], None], drawing: Drawing, show_steps: bool) -> None:
    """Device `rank` draws every n-th picture of n devices."""
    cache, device = drawing.cache, drawing.devices[rank]
    indices = drawing.missing[rank :: len(drawing.devices)]
    with explain_out_of_memory(ADVICE):
        compute = drawing_compute(device, drawing.precision)
        batch_size = drawing.batch_size or batch_that_fits(
            drawing.settings, cache.sampling, compute.dtype, device, len(indices)
        )
        ldm = ModelSlot(compute).use(read_checkpoint(drawing.base), drawing.settings, drawing.tokenizer)
        speed_up(ldm, drawing.compile, -(-len(indices) // batch_size) * cache.sampling.num_steps)
        crew = drawing_crew(ldm, cache.sampling)
        alone = show_steps and crew.workers == 1
        with Progress(cache.sampling.num_steps, "denoising", "step", inner=True, silent=not alone) as steps:
            for drawn, _ in enumerate(cache.draw(ldm, indices, batch_size, on_step=steps.update, crew=crew), 1):
                done(1)
                if drawn % batch_size == 0:
                    steps.restart()

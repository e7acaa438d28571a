"""Previews: images sampled before training and at every save, from the same noise, and one sheet of all steps."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.commands.dreambooth.plan import RunPlan
from ldm.data.images import read_image, save_png, to_image
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.sampling import decode_images, sample_latents
from ldm.progress import Progress
from ldm.report.grid import labelled_grid
from ldm.runtime.batching import images_at_a_time
from ldm.terminal import visible
from ldm.training.dreambooth import DreamBooth

SAMPLES, PICTURES, ALL_STEPS = "samples", "pictures", "sweep"
"""`samples/` holds a sheet per step, `samples/pictures/` the single images, `samples/sweep.png` all steps."""
MOST_ROWS, MOST_PIXELS = 24, 256
"""Rows, and pixels on a side of an image, in the sheet of all steps: of more steps some are shown."""

MOST_TOGETHER = 4
"""Images per batch on a GPU."""

log = logging.getLogger(__name__)


class Previews:
    """One image per prompt of the YAML or `--preview-prompt`."""

    def __init__(self, plan: RunPlan, run_dir: Path) -> None:
        self.prompts = [prompt.replace("{class}", plan.subject.class_name) for prompt in plan.config.preview_prompts]
        self.sampling, self.seed, self.compute = plan.sampling, plan.options.seed, plan.compute
        self.directory = run_dir / SAMPLES

    def sample(self, module: DreamBooth, step: int) -> None:
        """Writes the step's images and sheet and the sheet of all steps so far, and logs them."""
        if not self.prompts:
            return
        with self._ready(module):
            images = self._sample_images(module)
        for index, (prompt, image) in enumerate(zip(self.prompts, images, strict=True)):
            save_png(self._path(step, index), to_image(image), {"prompt": prompt, "seed": self.seed, "step": step})
        sheet = labelled_grid([self._images(step)], [f"step {step}"], self.prompts)
        save_png(self.directory / f"step-{step:05d}.png", sheet)
        steps = [one for one in self._steps() if one <= step]
        all_steps = self._sheet_of(steps)
        save_png(self.directory / f"{ALL_STEPS}.png", all_steps)
        for one in steps if steps[:-1] == [0] else [step]:  # there was no log before training
            for prompt, image in zip(self.prompts, self._images(one), strict=True):
                module.run_log.log_image(visible(prompt), image, one)
        module.run_log.log_image(ALL_STEPS, all_steps, step)

    def sample_untrained(self, module: DreamBooth) -> None:
        """Step 0, by the base model. Called before training; a resumed run has it already."""
        if not (self.directory / "step-00000.png").exists():
            self.sample(module, 0)

    @torch.no_grad()
    def _sample_images(self, module: DreamBooth) -> Tensor:
        """An image (n 3 h w) for each prompt, all from the same noise."""
        ldm = module.ldm
        uncond_context = ldm.encode_prompts([""])
        contexts = torch.cat([ldm.encode_prompts([prompt]) for prompt in self.prompts])

        def sample(batch_size: int) -> Tensor:
            latents = []
            with Progress(len(contexts), "previews", "img") as progress, module.alone(ldm.unet):
                for batch in contexts.split(batch_size):
                    guidance = classifier_free(batch, uncond_context, self.sampling.guidance_scale)
                    latents.append(sample_latents(ldm, guidance, [self.seed] * len(batch), self.sampling))
                    progress.update(len(batch))
            with module.alone(ldm.autoencoder):
                return torch.cat([decode_images(ldm, some) for some in latents])

        together = 1 if module.config.fused_backward else MOST_TOGETHER
        if (batch_size := images_at_a_time(ldm.device, together)) > 1:
            try:
                return sample(batch_size)
            except torch.OutOfMemoryError:
                log.warning("too little memory to sample previews in a batch; sampling them one by one")
        return sample(1)

    @contextmanager
    def _ready(self, module: DreamBooth) -> Iterator[None]:
        """The whole model on its device, in the type that it is trained in."""
        if module.config.train_dtype != "fp32":
            with module.all_onloaded(torch.bfloat16):
                yield
        else:
            with self.compute.autocast(), module.all_onloaded():
                yield

    def _path(self, step: int, index: int) -> Path:
        return self.directory / PICTURES / f"step-{step:05d}_{index:02d}.png"

    def _images(self, step: int) -> list[Image.Image]:
        return [read_image(self._path(step, index)) for index in range(len(self.prompts))]

    def _steps(self) -> list[int]:
        """The steps whose images all exist, also those that earlier processes wrote."""
        names = [path.stem for path in (self.directory / PICTURES).glob("step-*_00.png")]
        steps = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)_00", name)))
        return [step for step in steps if all(self._path(step, index).exists() for index in range(len(self.prompts)))]

    def _sheet_of(self, steps: list[int]) -> Image.Image:
        """Rows of steps, columns of prompts."""
        spread = np.linspace(0, len(steps) - 1, min(len(steps), MOST_ROWS)).round().astype(int)
        shown = [steps[index] for index in spread]
        rows = [self._images(step) for step in shown]
        for image in (image for row in rows for image in row):
            image.thumbnail((MOST_PIXELS, MOST_PIXELS))
        return labelled_grid(rows, [f"step {step}" for step in shown], self.prompts)

"""Images drawn before training and at every save from the same noise: the log shows the sweep as it grows."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from ldm.data.images import read_image, save_png, to_image, to_tensor
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.progress import Progress
from ldm.report.grid import labelled_grid
from ldm.runtime.devices import Compute
from ldm.terminal import visible
from ldm.training.config import Subject
from ldm.training.dreambooth import DreamBooth

SAMPLES, PICTURES, SWEEP = "samples", "pictures", "sweep"
"""`samples/` holds a sheet per step, `samples/pictures/` the single images, `samples/sweep.png` all of them."""
MOST_ROWS, MOST_PIXELS = 24, 256
"""Of the growing sheet: more steps are shown by some of them, larger images smaller."""

MOST_TOGETHER = 4
"""Images that a GPU draws at a time."""

log = logging.getLogger(__name__)


def images_together(device: torch.device) -> int:
    """How many are drawn at a time: on a CPU one, whose bits no other is to change."""
    return MOST_TOGETHER if device.type == "cuda" else 1


@dataclass(frozen=True)
class Previews:
    """One image per prompt; "{class}" in a prompt is the subject's class."""

    run_dir: Path
    subject: Subject
    prompts: tuple[str, ...]
    sampling: SamplingConfig
    seed: int
    compute: Compute

    def draw(self, module: DreamBooth, step: int) -> None:
        """Writes the step's images and sheet and the sheet of all steps so far, and adds them to TensorBoard."""
        if not self.prompts:
            return
        with self._ready(module):
            self._sample_images(module.ldm, step)
        sheet = labelled_grid([self._images(step)], [f"step {step}"], self._filled)
        save_png(self.run_dir / SAMPLES / f"step-{step:05d}.png", sheet)
        steps = [one for one in self._steps() if one <= step]
        sweep = self._sweep(steps)
        save_png(self.run_dir / SAMPLES / f"{SWEEP}.png", sweep)
        if isinstance(module.logger, TensorBoardLogger):
            for one in steps if steps[:-1] == [0] else [step]:  # there was no log before training
                for prompt, image in zip(self._filled, self._images(one), strict=True):
                    module.logger.experiment.add_image(visible(prompt), (to_tensor(image) + 1.0) / 2.0, one)
            module.logger.experiment.add_image(SWEEP, np.asarray(sweep), step, dataformats="HWC")

    def sample_untrained(self, module: DreamBooth) -> None:
        """Step 0: what the base model draws. To be called before training; in a resumed run it is there already."""
        if self.prompts and not (self.run_dir / SAMPLES / "step-00000.png").exists():
            self.draw(module, 0)

    def _sample_images(self, ldm: LatentDiffusion, step: int) -> None:
        with torch.no_grad():
            uncond_context = ldm.encode_prompts([""])
            contexts = torch.cat([ldm.encode_prompts([prompt]) for prompt in self._filled])
        images = self._sample(ldm, contexts, uncond_context)
        for index, (prompt, image) in enumerate(zip(self._filled, images, strict=True)):
            save_png(self._path(step, index), to_image(image), {"prompt": prompt, "seed": self.seed, "step": step})

    def _sample(self, ldm: LatentDiffusion, contexts: Tensor, uncond_context: Tensor) -> Tensor:
        """An image for each of the contexts (n m d), all from the same noise: (n 3 h w)."""

        def sample(together: int) -> Tensor:
            batches = [(some, uncond_context.expand_as(some)) for some in contexts.split(together)]
            images = []
            with Progress(len(contexts), "previews", "img") as progress:
                for one in batches:
                    guidance = classifier_free(*one, self.sampling.guidance_scale)
                    images.append(sample_images(ldm, guidance, [self.seed] * len(one[0]), self.sampling))
                    progress.update(len(images[-1]))
            return torch.cat(images)

        if (together := images_together(ldm.device)) > 1:
            try:
                return sample(together)
            except torch.OutOfMemoryError:
                log.warning("too little memory to draw previews together; they are drawn one by one")
        return sample(1)

    @contextmanager
    def _ready(self, module: DreamBooth) -> Iterator[None]:
        """The whole model on its device, in the type that it is trained in."""
        if module.config.train_dtype == "bf16":
            with module.whole(torch.bfloat16):
                yield
        else:
            with self.compute.autocast(), module.whole():
                yield

    @property
    def _filled(self) -> list[str]:
        return [prompt.replace("{class}", self.subject.class_name) for prompt in self.prompts]

    def _path(self, step: int, index: int) -> Path:
        return self.run_dir / SAMPLES / PICTURES / f"step-{step:05d}_{index:02d}.png"

    def _images(self, step: int) -> list[Image.Image]:
        return [read_image(self._path(step, index)) for index in range(len(self.prompts))]

    def _steps(self) -> list[int]:
        """The steps of which all images are there; files, so that a resumed run knows them too."""
        names = [path.stem for path in (self.run_dir / SAMPLES / PICTURES).glob("step-*_00.png")]
        steps = sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)_00", name)))
        return [step for step in steps if all(self._path(step, index).exists() for index in range(len(self.prompts)))]

    def _sweep(self, steps: list[int]) -> Image.Image:
        """Rows of steps, columns of prompts."""
        spread = np.linspace(0, len(steps) - 1, min(len(steps), MOST_ROWS)).round().astype(int)
        shown = [steps[index] for index in spread]
        rows = [self._images(step) for step in shown]
        for image in (image for row in rows for image in row):
            image.thumbnail((MOST_PIXELS, MOST_PIXELS))
        return labelled_grid(rows, [f"step {step}" for step in shown], self._filled)

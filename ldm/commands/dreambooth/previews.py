"""Pictures drawn at every save from the same noise, so that the log shows what each step has learned."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning.loggers import TensorBoardLogger

from ldm.commands.drawing.grid import labelled_grid
from ldm.data.images import save_png, to_image
from ldm.diffusion.sampling import SamplingConfig, sample_images
from ldm.training.config import Subject
from ldm.training.dreambooth import DreamBooth


@dataclass(frozen=True)
class Previews:
    """One picture per prompt; "{class}" in a prompt is the subject's class."""

    run_dir: Path
    subject: Subject
    prompts: tuple[str, ...]
    sampling: SamplingConfig
    seed: int

    def draw(self, module: DreamBooth, step: int) -> None:
        """Writes `samples/step-<n>.png` and adds the pictures to TensorBoard."""
        if not self.prompts:
            return
        prompts = [prompt.replace("{class}", self.subject.class_name) for prompt in self.prompts]
        with torch.no_grad():
            uncond_context = module.ldm.encode_prompts([""])
            contexts = [module.ldm.encode_prompts([prompt]) for prompt in prompts]
        pictures = [
            sample_images(module.ldm, context, uncond_context, [self.seed], self.sampling)[0] for context in contexts
        ]
        sheet = labelled_grid([[to_image(picture) for picture in pictures]], [f"step {step}"], prompts)
        save_png(self.run_dir / "samples" / f"step-{step:05d}.png", sheet)
        if isinstance(module.logger, TensorBoardLogger):
            for prompt, picture in zip(prompts, pictures, strict=True):
                module.logger.experiment.add_image(prompt, (picture + 1.0) / 2.0, step)

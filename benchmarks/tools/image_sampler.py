"""Samples images with a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.sampling import sample_images
from ldm.runtime.devices import Compute
from ldm.runtime.models import ModelSlot, settings_of


class ImageSampler:
    """Samples with a checkpoint as the commands do, with the model's sampling defaults."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.slot = ModelSlot(Compute(device))
        self.use(path)

    def use(self, path: Path) -> CheckpointInfo:
        """Loads another checkpoint of the same shape; returns its metadata."""
        file = read_checkpoint(path)
        settings = settings_of(file, None)[1]
        self.sampling = settings.sampling
        self.ldm: LatentDiffusion = self.slot.use(file, settings)
        return checkpoint_info(file)

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], what: str = "sampling") -> Tensor:
        """One image for each prompt from the noise of its seed: (n 3 h w) in [-1, 1]."""
        parts = []
        with tqdm(total=len(prompts), desc=what, unit="img") as bar:
            for start in range(0, len(prompts), self.sampling.batch_size):
                some = prompts[start : start + self.sampling.batch_size]
                context = torch.cat([self.slot.context(prompt) for prompt in some])
                chosen = seeds[start : start + len(some)]
                guidance = classifier_free(context, self.slot.context(""), self.sampling.guidance_scale)
                parts.append(sample_images(self.ldm, guidance, chosen, self.sampling))
                bar.update(len(some))
        return torch.cat(parts)

    @torch.inference_mode()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images encoded and decoded by the autoencoder: (n 3 h w) in [-1, 1]."""
        autoencoder, device = self.ldm.autoencoder, self.ldm.device
        parts = [autoencoder.decode(autoencoder.encode(part.to(device)).mean).cpu() for part in images.split(32)]
        return torch.cat(parts).float().clamp(-1, 1)

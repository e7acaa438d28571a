"""The second stage from scratch: a text encoder and a UNet learn to denoise the latents of captioned images.

"High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), eq. 3. Leaving out captions now and
then teaches the model without and with them at once (classifier-free guidance, arXiv 2207.12598, algorithm 1).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ldm.data.batches import LatentBatch, LatentBatches, Share, batch_loader
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss import eps_loss, min_snr_weight
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.training.config import DiffusionTrainingConfig
from ldm.training.module import AveragedTraining


class LatentDiffusionTraining(AveragedTraining):
    """Trains `ldm` on moments (n v 2c h w) and captions of n images; `average` holds the weights that are saved."""

    can_be_graphed = True
    config: DiffusionTrainingConfig

    def __init__(
        self,
        ldm: LatentDiffusion,
        moments: np.ndarray,
        captions: Sequence[Sequence[str]],
        config: DiffusionTrainingConfig,
        seed: int,
        workers: int = 0,
    ) -> None:
        super().__init__(config, seed)
        self.ldm = ldm
        self.moments = moments
        self.captions = captions
        self.workers = workers
        self.start_average(config.ema_decay)

    def trained_parts(self) -> dict[str, nn.Module]:
        """The networks whose weights move."""
        parts: dict[str, nn.Module] = {"unet": self.ldm.unet}
        if self.config.train_text_encoder:
            parts["text_encoder"] = self.ldm.text_encoder
        return parts

    @property
    def drawn_pixels(self) -> int:
        """Those of the images that are decoded at a time, if a sheet is drawn at all."""
        return super().drawn_pixels if self.config.sample_prompts else 0

    def losses(self, batch: LatentBatch) -> dict[str, Tensor]:
        """The loss of a batch, each sample at a timestep of its own."""
        schedule, timesteps = self.ldm.schedule, batch["timesteps"]
        latents = self.ldm.config.scale_factor * DiagonalGaussian(batch["moments"]).sample(batch["posterior_noise"])
        noisy = schedule.add_noise(latents, batch["noise"], timesteps)
        context = self.ldm.text_encoder(batch["input_ids"])
        plain = eps_loss(self.ldm.unet(noisy, timesteps, context), batch["noise"])
        weighted = plain
        if self.config.min_snr_gamma:
            weighted = plain * min_snr_weight(schedule.alphas_cumprod_at(timesteps), self.config.min_snr_gamma)
        return {"eps": plain.mean(), "total": weighted.mean()}

    def train_dataloader(self) -> DataLoader[LatentBatch]:
        """Batches from the step that training stands at."""
        trainer, config = self.trainer, self.config
        tokenizer = self.ldm.tokenizer
        assert tokenizer is not None, "a model to train has a tokenizer"
        share = Share(self.seed, config.batch_size, trainer.global_step, trainer.global_rank, trainer.world_size)
        batches = LatentBatches(
            self.moments, self.captions, tokenizer, self.ldm.schedule.num_timesteps, config.caption_dropout, share
        )
        return batch_loader(batches, self.workers, self.pin_batches)


@torch.no_grad()
def initialise(ldm: LatentDiffusion) -> None:
    """Random weights for a text encoder and a UNet that learn from nothing.

    Embeddings start small, as GPT-2's: torch's N(0, 1) would drown what the layers add. The UNet's residual branches
    and its output start at zero by construction.
    """
    for module in ldm.text_encoder.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

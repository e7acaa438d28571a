"""The second stage from scratch: a text encoder and a UNet are trained to denoise the latents of captioned images.

"High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), eq. 3. Some captions are left empty,
which trains the unconditional model as well ("Classifier-Free Diffusion Guidance", arXiv 2207.12598, algorithm 1).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ldm.data.batches import DeviceShare, LatentBatch, LatentBatches
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.loss import eps_loss, min_snr_weight
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.training.config import DiffusionTrainingConfig
from ldm.training.ema import AveragedTraining


class LatentDiffusionTraining(AveragedTraining):
    """Trains `ldm` on moments (n v 2c h w) and captions of n images; `average` has the weights to save."""

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
        """The UNet, and the text encoder if it is trained."""
        parts: dict[str, nn.Module] = {"unet": self.ldm.unet}
        if self.config.train_text_encoder:
            parts["text_encoder"] = self.ldm.text_encoder
        return parts

    @property
    def sampled_pixels(self) -> int:
        """Pixels that are decoded at a time; 0 if no sheet is sampled."""
        return super().sampled_pixels if self.config.sample_prompts else 0

    def losses(self, batch: LatentBatch) -> dict[str, Tensor]:
        """Latent diffusion, eq. 3: `eps` is the loss, `total` is weighted by Min-SNR if `min_snr_gamma` is set."""
        schedule, timesteps = self.ldm.schedule, batch["timesteps"]
        latents = self.ldm.sample_posterior(DiagonalGaussian(batch["moments"]), batch["posterior_noise"])
        noisy = schedule.add_noise(latents, batch["noise"], timesteps)
        context = self.ldm.text_encoder(batch["input_ids"])
        plain = eps_loss(self.ldm.unet(noisy, timesteps, context), batch["noise"])
        weighted = plain
        if self.config.min_snr_gamma:
            weighted = plain * min_snr_weight(schedule.alphas_cumprod_at(timesteps), self.config.min_snr_gamma)
        return {"eps": plain.mean(), "total": weighted.mean()}

    def batches(self, share: DeviceShare) -> LatentBatches:
        """Encoded images and captions, with noise and timesteps."""
        tokenizer = self.ldm.tokenizer
        assert tokenizer is not None, "a model to train has a tokenizer"
        steps, dropout = self.ldm.schedule.num_timesteps, self.config.caption_dropout
        return LatentBatches(self.moments, self.captions, tokenizer, steps, dropout, share)


@torch.no_grad()
def initialise(ldm: LatentDiffusion) -> None:
    """First weights of a text encoder and a UNet, where torch's own are not good.

    Embeddings start small, as GPT-2's: torch's N(0, 1) would be far larger than what the layers add. The UNet's
    residual branches and its output start at zero by construction.
    """
    for module in ldm.text_encoder.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

"""Trains a UNet to edit images by instruction, from one that samples images from prompts.

"InstructPix2Pix: Learning to Follow Image Editing Instructions" (arXiv 2211.09800), section 3.2: the first convolution
gets further input channels for the latents of the image to edit, whose weights start at zero. Text encoder and
autoencoder stay as they are.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ldm.data.batches import DeviceShare, EditBatch, EditBatches
from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ldm.diffusion.loss import eps_loss
from ldm.nn.autoencoder import DiagonalGaussian
from ldm.nn.layers import conv3x3
from ldm.training.config import EditTrainingConfig
from ldm.training.ema import AveragedTraining


class EditTraining(AveragedTraining):
    """Trains the UNet of `ldm` on moments (2n v 2c h w) and instructions of n pairs; `average` has what is saved."""

    can_be_graphed = True
    config: EditTrainingConfig

    def __init__(
        self,
        ldm: LatentDiffusion,
        moments: np.ndarray,
        instructions: Sequence[Sequence[str]],
        config: EditTrainingConfig,
        seed: int,
        workers: int = 0,
    ) -> None:
        super().__init__(config, seed)
        self.ldm = ldm
        self.moments = moments
        self.instructions = instructions
        self.workers = workers
        self.start_average(config.ema_decay)

    def trained_parts(self) -> dict[str, nn.Module]:
        """The UNet."""
        return {"unet": self.ldm.unet}

    @property
    def sampled_pixels(self) -> int:
        """Pixels that are decoded at a time; 0 if no sheet is sampled."""
        return super().sampled_pixels if self.config.sample_pairs else 0

    def losses(self, batch: EditBatch) -> dict[str, Tensor]:
        """Equation 2: the eps loss of the edited images' latents, given instruction and image."""
        latents = self.ldm.sample_posterior(DiagonalGaussian(batch["moments"]), batch["posterior_noise"])
        noisy = self.ldm.schedule.add_noise(latents, batch["noise"], batch["timesteps"])
        inputs = torch.cat([noisy, batch["image_latents"]], dim=1)
        context = self.ldm.text_encoder(batch["input_ids"])
        return {"total": eps_loss(self.ldm.unet(inputs, batch["timesteps"], context), batch["noise"]).mean()}

    def batches(self, share: DeviceShare) -> EditBatches:
        """Encoded pairs and instructions, with noise and timesteps."""
        tokenizer = self.ldm.tokenizer
        assert tokenizer is not None, "a model to train has a tokenizer"
        steps, dropout = self.ldm.schedule.num_timesteps, self.config.conditioning_dropout
        return EditBatches(self.moments, self.instructions, tokenizer, steps, dropout, share)


@torch.no_grad()
def widen_input(ldm: LatentDiffusion, config: LatentDiffusionConfig) -> None:
    """Gives the UNet the input channels of `config`; the weights of new ones are zero, so its output stays the same."""
    stage = cast(nn.Sequential, ldm.unet.input_blocks[0])
    narrow = cast(nn.Conv2d, stage[0])
    assert narrow.bias is not None
    wide = conv3x3(config.unet.in_channels, narrow.out_channels).to(narrow.weight)
    assert wide.bias is not None
    wide.weight.zero_()
    wide.weight[:, : narrow.in_channels] = narrow.weight
    wide.bias.copy_(narrow.bias)
    stage[0] = wide
    ldm.unet.config, ldm.config = config.unet, config

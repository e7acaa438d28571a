"""The first stage from scratch: an autoencoder whose latents a diffusion model can learn.

"High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), section 3.1 and appendix G, with KL
regularisation. The reconstruction loss is that of the pixels and of their differences to the next: without a perceptual
loss, whose network would have to come from somewhere, edges keep sharp by it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ldm.data.batches import ImageBatch, ImageBatches, Share, batch_loader
from ldm.data.images import fit, read_image, to_tensor
from ldm.nn.autoencoder import AutoencoderKL, ResnetBlock
from ldm.nn.layers import zero_init
from ldm.training.config import AutoencoderTrainingConfig
from ldm.training.module import AveragedTraining
from ldm.training.patch_pca import PatchPCA

FIRST_LOGVAR = -6.0
"""Log-variance of the untrained posterior: with 0 the decoder would see little but noise."""

TEACHER_IMAGES = 2048
"""How many images the principal components are taken from."""


class AutoencoderTraining(AveragedTraining):
    """Trains an autoencoder on image files; `average` holds the weights that are saved."""

    config: AutoencoderTrainingConfig

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        paths: Sequence[Path],
        config: AutoencoderTrainingConfig,
        seed: int,
        workers: int = 0,
    ) -> None:
        super().__init__(config, seed)
        self.autoencoder = autoencoder
        self.paths = paths
        self.workers = workers
        self.start_average(config.ema_decay)
        shape = autoencoder.config
        self.teacher = PatchPCA(shape.downsampling_factor, shape.embed_dim)

    def on_fit_start(self) -> None:
        """Shows the teacher some images; a resumed run has it from its state."""
        if self.config.teacher_iterations and not self.teacher.fitted:
            size = self.config.size
            images = [to_tensor(fit(read_image(path, size), size, size)) for path in self.paths[:TEACHER_IMAGES]]
            self.teacher.fit(torch.stack(images).to(self.device))

    def trained_parts(self) -> dict[str, nn.Module]:
        """The autoencoder."""
        return {"autoencoder": self.autoencoder}

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Encode, draw from the posterior, decode, compare; first the decoder reads the teacher's codes."""
        config, images, noise = self.config, batch["images"], batch["noise"]
        posterior = self.autoencoder.encode(images)
        terms = {}
        if self.trainer.global_step < config.teacher_iterations:
            codes = self.teacher(images)
            latents = codes + posterior.std.detach() * noise
            terms["teacher"] = (posterior.mean.float() - codes).square().mean()
        else:
            latents = posterior.sample(noise)
        error = self.autoencoder.decode(latents).float() - images
        terms |= {
            "absolute": config.absolute_weight * error.abs().mean(),
            "square": config.square_weight * error.square().mean(),
            "edges": config.edge_weight * edge_error(error),
            # Nats per value of the image, as in appendix G, where both terms are sums.
            "kl": config.kl_weight * posterior.kl().mean() / images[0].numel(),
        }
        total = torch.stack(list(terms.values())).sum()
        for name, term in terms.items():
            self.log(f"loss/{name}", term)
        self.log("loss/total", total)
        self.log("psnr", psnr(error.detach()).mean())
        return total

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Batches from the step that training stands at."""
        config = self.config
        factor = self.autoencoder.config.downsampling_factor
        latent_shape = (self.autoencoder.config.embed_dim, config.size // factor, config.size // factor)
        share = Share(
            self.seed, config.batch_size, self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size
        )
        return batch_loader(
            ImageBatches(self.paths, config.size, latent_shape, config.flip, share), self.workers, self.pin_batches
        )


def initialise(autoencoder: AutoencoderKL) -> None:
    """Random weights that learn quickly: residual branches start at zero, the posterior with little noise."""
    for module in autoencoder.modules():
        if isinstance(module, ResnetBlock):
            zero_init(module.conv2)
    quant_conv = autoencoder.quant_conv
    with torch.no_grad():
        logvar = slice(autoencoder.config.embed_dim, None)
        quant_conv.weight[logvar] *= 0.1
        quant_conv.bias[logvar] = FIRST_LOGVAR  # type: ignore[index]


def edge_error(error: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, of an error (b 3 h w)."""
    return (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of errors (b 3 h w) between images in [-1, 1]: (b,)."""
    return -10 * (error.float().square().flatten(start_dim=1).mean(dim=1) / 4).log10()

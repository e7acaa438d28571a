"""The first stage from scratch: an autoencoder whose latents a diffusion model can be trained on.

"High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752), section 3.1 and appendix G, with KL
regularisation. The reconstruction loss compares pixels and differences of neighbouring pixels, which keeps edges sharp.
There is no perceptual loss: it would need another trained network.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.data.batches import DeviceShare, ImageBatch, ImageBatches
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.nn.autoencoder import AutoencoderKL, ResnetBlock
from ldm.nn.layers import zero_init
from ldm.training.config import AutoencoderTrainingConfig
from ldm.training.ema import AveragedTraining

FIRST_LOGVAR = -6.0
"""Log-variance of the untrained posterior: with 0 the decoder's input would be mostly noise."""
TEACHER_IMAGES = 2048
"""Images from which the principal components are computed, at most."""
SMALLEST_VARIANCE = 1e-8
"""The least variance of a principal component; below is rounding."""


class PatchPCA(nn.Module):
    """The best linear autoencoder of patches: a teacher for the first updates.

    `pca(images (b 3 h w)) -> codes (b c h/f w/f)`, zero until `fit`: patches of f x f pixels are projected on their c
    principal components of largest variance, each scaled to unit variance. First the encoder is trained to give these
    codes and the decoder to decode them. That takes minutes; from two random networks it takes far longer.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.zeros(3 * patch**2))
        self.register_buffer("components", torch.zeros(channels, 3 * patch**2))

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called, or its result loaded from a resume state."""
        return bool(self.components.any())

    def fit(self, images: Tensor) -> None:
        """Computes the components of the patches of images (n 3 h w)."""
        patches = rearrange(self._patches(images), "b d p -> (b p) d")
        mean = patches.mean(dim=0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        variances, directions = torch.linalg.eigh(covariance)  # in ascending order
        largest = slice(-len(self.components), None)
        deviations = variances[largest].clamp(min=SMALLEST_VARIANCE).sqrt()  # flat images have none
        self.mean.copy_(mean)
        self.components.copy_((directions[:, largest] / deviations).T)

    def forward(self, images: Tensor) -> Tensor:
        codes = self.components @ (self._patches(images) - self.mean[:, None])
        return rearrange(codes, "b c (h w) -> b c h w", w=images.shape[-1] // self.patch)

    def _patches(self, images: Tensor) -> Tensor:
        return F.unfold(images, self.patch, stride=self.patch)


class AutoencoderTraining(AveragedTraining):
    """Trains an autoencoder on image files; `average` has the weights to save."""

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
        """Fits the teacher; in a resumed run it comes from the resume state."""
        if self.config.teacher_iterations and not self.teacher.fitted:
            size = self.config.size
            images = [to_tensor(fit_image(read_image(path, size), size, size)) for path in self.paths[:TEACHER_IMAGES]]
            self.teacher.fit(torch.stack(images).to(self.device))

    def trained_parts(self) -> dict[str, nn.Module]:
        """The autoencoder."""
        return {"autoencoder": self.autoencoder}

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Encode, sample from the posterior, decode, compare. At first the decoder gets the teacher's codes."""
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

    def batches(self, share: DeviceShare) -> ImageBatches:
        """Images, and the noise to sample latents with."""
        shape, size = self.autoencoder.config, self.config.size
        side = size // shape.downsampling_factor
        return ImageBatches(self.paths, size, (shape.embed_dim, side, side), self.config.flip, share)


def initialise(autoencoder: AutoencoderKL) -> None:
    """First weights: residual branches start at zero, the posterior with little noise."""
    for module in autoencoder.modules():
        if isinstance(module, ResnetBlock):
            zero_init(module.conv2)
    quant_conv = autoencoder.quant_conv
    with torch.no_grad():
        logvar = slice(autoencoder.config.embed_dim, None)
        quant_conv.weight[logvar] *= 0.1
        quant_conv.bias[logvar] = FIRST_LOGVAR  # type: ignore[index]


def edge_error(error: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of an error (b 3 h w)."""
    return (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of errors (b 3 h w) between images in [-1, 1]: (b,)."""
    return -10 * (error.float().square().flatten(start_dim=1).mean(dim=1) / 4).log10()

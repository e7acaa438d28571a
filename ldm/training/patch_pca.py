"""The best linear autoencoder of patches: principal components, a head start for the first stage.

A patch of f x f pixels is projected on the components of largest variance, one per latent channel, each scaled to
unit variance. It is a teacher only: the encoder learns to give these codes while the decoder learns to read them, which
takes minutes where an encoder and a decoder that both begin at random search for a common language.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SMALLEST_VARIANCE = 1e-8
"""Of a component; below is rounding."""


class PatchPCA(nn.Module):
    """`pca(images (b 3 h w)) -> codes (b c h/f w/f)` of zero mean and unit variance; all zero until `fit`."""

    mean: Tensor
    components: Tensor

    def __init__(self, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.zeros(3 * patch**2))
        self.register_buffer("components", torch.zeros(channels, 3 * patch**2))

    @property
    def fitted(self) -> bool:
        """Whether it has been shown images, now or before a training was interrupted."""
        return bool(self.components.any())

    def fit(self, images: Tensor) -> None:
        """Finds the components of these images (n 3 h w)."""
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

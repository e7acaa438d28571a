"""The training losses: noise prediction, and DreamBooth's sum of instance and class."""

from typing import NamedTuple

from torch import Tensor


def eps_loss(eps: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, per sample: (b ...), (b ...) -> (b,) float32 (DDPM, eq. 14)."""
    return (eps.float() - noise.float()).square().flatten(start_dim=1).mean(dim=1)


def min_snr_weight(alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR of noise levels (b,): weights (b,) of the eps loss (arXiv 2303.09556, section 3.4).

    They keep nearly clean latents from dominating the loss.
    """
    snr = alphas_cumprod / (1.0 - alphas_cumprod)
    return snr.clamp(max=gamma) / snr


class DreamBoothLoss(NamedTuple):
    """Scalars: `total` = `instance` + lambda * `prior`."""

    total: Tensor
    instance: Tensor
    prior: Tensor


def dreambooth_loss(per_sample: Tensor, num_instance: int, prior_loss_weight: float) -> DreamBoothLoss:
    """Prior preservation (DreamBooth, arXiv 2208.12242, eq. 2) of a batch (b,): instance samples first, then class."""
    instance = per_sample[:num_instance].mean()
    if num_instance == len(per_sample):
        return DreamBoothLoss(instance, instance, instance.new_zeros(()))
    prior = per_sample[num_instance:].mean()
    return DreamBoothLoss(instance + prior_loss_weight * prior, instance, prior)

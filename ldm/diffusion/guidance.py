"""Conditionings, and guidance as a weighted sum of the predictions with each of them.

Classifier-free guidance ("Classifier-Free Diffusion Guidance", arXiv 2207.12598) has two: no prompt and the prompt.
InstructPix2Pix (arXiv 2211.09800, eq. 3) has three: (1 - s_I, s_I - s_T, s_T).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EpsFn = Callable[[Tensor, Tensor], Tensor]
"""(latents (b c h w), timesteps (b,), whole or fractional) -> eps (b c h w)."""


@dataclass(frozen=True)
class Conditioning:
    """The inputs of the UNet besides noisy latents and timesteps."""

    context: Tensor
    """(b m d), for cross-attention."""
    concat: Tensor | None = None
    """(b c h w) further channels of the input, such as a mask or another image's latents."""


Guidance = Sequence[tuple[float, Conditioning]]
"""Weights that sum to 1, and the conditioning of each."""


def classifier_free(context: Tensor, uncond_context: Tensor, guidance_scale: float) -> Guidance:
    """Guidance towards `context` (b m d) and away from `uncond_context`; a scale of 1 means no guidance.

    `uncond_context` is (b m d), or (1 m d) for all images.
    """
    uncond_context = uncond_context.expand_as(context)
    # eq. 6, with scale = 1 + w
    return [(1.0 - guidance_scale, Conditioning(uncond_context)), (guidance_scale, Conditioning(context))]


def guided_eps(predict: Callable[[Conditioning], EpsFn], guidance: Guidance, rescale: float = 0.0) -> EpsFn:
    """The sum of weight * eps over all conditionings, predicted in one forward pass.

    `predict(conditioning)` returns the network's prediction with a conditioning, and is called once for all steps. A
    conditioning of weight 0 is left out. `rescale`: as in `rescaled`, towards the last conditioning. Raises
    `ValueError` if the weights do not sum to 1.
    """
    if not math.isclose(sum(weight for weight, _ in guidance), 1.0, abs_tol=1e-6):
        raise ValueError(f"the weights of guidance should sum to 1: {[weight for weight, _ in guidance]}")
    weights, conditionings = zip(*(pair for pair in guidance if pair[0] != 0.0), strict=True)
    count = len(conditionings)
    eps_of_all = predict(_joined(conditionings))
    if count == 1:
        return eps_of_all

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        first, *others = eps_of_all(latents.repeat(count, 1, 1, 1), timesteps.repeat(count)).chunk(count)
        eps = first  # its weight is 1 minus the others'
        for weight, other in zip(weights[1:], others, strict=True):
            eps = eps + weight * (other - first)
        return rescaled(eps, others[-1], rescale) if rescale else eps

    return eps_fn


def rescaled(eps: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Guided eps (b c h w), with this share of it at the standard deviation of the conditional eps of each image.

    Guidance widens eps, and images are overexposed: "Common Diffusion Noise Schedules and Sample Steps are Flawed"
    (arXiv 2305.08891), eq. 15 and 16.
    """
    dims = tuple(range(1, eps.ndim))
    factor = conditional.std(dims, keepdim=True) / eps.std(dims, keepdim=True)
    return share * (eps * factor) + (1 - share) * eps


def _joined(conditionings: Sequence[Conditioning]) -> Conditioning:
    """One conditioning for a batch of all of them, in their order."""
    concats = [one.concat for one in conditionings if one.concat is not None]
    if concats and len(concats) < len(conditionings):
        raise ValueError("all conditionings or none should have further channels")
    return Conditioning(torch.cat([one.context for one in conditionings]), torch.cat(concats) if concats else None)

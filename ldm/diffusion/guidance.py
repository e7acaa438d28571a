"""Classifier-free guidance ("Classifier-Free Diffusion Guidance", arXiv 2207.12598)."""

from collections.abc import Callable

import torch
from torch import Tensor

EpsFn = Callable[[Tensor, Tensor], Tensor]
"""(latents (b c h w), timesteps (b,), whole or fractional) -> eps (b c h w)."""


def guided_eps(
    eps_given: Callable[[Tensor], EpsFn], context: Tensor, uncond_context: Tensor, guidance_scale: float
) -> EpsFn:
    """Noise prediction steered towards `context` (b m d) and away from `uncond_context` (b m d).

    `eps_given(context)` is the model's prediction with a context, which it is given once for all steps. Both are
    predicted in one forward pass of twice the batch; at a scale of 1 the unconditional half drops out.
    """
    if guidance_scale == 1.0:
        return eps_given(context)
    eps_of_both = eps_given(torch.cat([uncond_context, context]))

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        eps_uncond, eps_cond = eps_of_both(latents.repeat(2, 1, 1, 1), timesteps.repeat(2)).chunk(2)
        # eq. 6, with scale = 1 + w
        return eps_uncond + guidance_scale * (eps_cond - eps_uncond)

    return eps_fn

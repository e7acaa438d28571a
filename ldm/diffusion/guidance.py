"""Classifier-free guidance ("Classifier-Free Diffusion Guidance", arXiv 2207.12598)."""

from collections.abc import Callable

import torch
from torch import Tensor

EpsFn = Callable[[Tensor, Tensor], Tensor]
"""(latents (b c h w), timesteps (b,), whole or fractional) -> eps (b c h w)."""


def guided_eps(
    model: Callable[[Tensor, Tensor, Tensor], Tensor], context: Tensor, uncond_context: Tensor, guidance_scale: float
) -> EpsFn:
    """Noise prediction steered towards `context` (b m d) and away from `uncond_context` (b m d).

    Both are predicted in one forward pass of twice the batch; at a scale of 1 the unconditional half drops out.
    """
    if guidance_scale == 1.0:
        return lambda latents, timesteps: model(latents, timesteps, context)
    both = torch.cat([uncond_context, context])

    def eps_fn(latents: Tensor, timesteps: Tensor) -> Tensor:
        eps_uncond, eps_cond = model(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), both).chunk(2)
        # eq. 6, with scale = 1 + w
        return eps_uncond + guidance_scale * (eps_cond - eps_uncond)

    return eps_fn

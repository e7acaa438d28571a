"""How a fine-tuning's latents are noised, where it isn't plain DDPM: which timesteps, and which noise.

All random numbers of an image are a function of the run's seed, the set that it is from and its position in the order
of all images: neither the number of devices nor another option changes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.diffusion.noise import derived_generator

NOISING = 0x7015E
"""Tells the generators from those of the batches."""


@dataclass(frozen=True)
class Noising:
    """The options; by default they change nothing."""

    offset: float = 0.0
    """Standard deviation of a constant added to each channel of the noise."""
    perturbation: float = 0.0
    """Standard deviation of noise that is added to the input and not predicted (arXiv 2301.11706)."""
    timesteps: tuple[int, int] | None = None
    """The first timestep and the end; None: the batch's own."""
    logit_normal: bool = False
    """Draws the timesteps by the logistic function of a normal number, so that the middle ones are frequent (arXiv
    2403.03206, section 3.1)."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing changes."""
        return self == Noising()

    def draw(self, noise: Tensor, timesteps: Tensor, seed: int, positions: Sequence[Sequence[int]]) -> "Drawn":
        """For noise (b c h w) and timesteps (b,), which plain DDPM would use, what is used in their place.

        `positions`: of the images of each set, one set after the other.
        """
        generators = [
            derived_generator(seed, NOISING, stream, position)
            for stream, some in enumerate(positions)
            for position in some
        ]
        drawn = [self._draw_one(*one) for one in zip(noise, timesteps, generators, strict=True)]
        return Drawn(*map(torch.stack, zip(*drawn, strict=True)))

    def _draw_one(self, noise: Tensor, timestep: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """As many numbers are drawn whatever the options are."""
        channels = noise.shape[0]
        constants = torch.randn(channels, 1, 1, generator=generator)
        uniform = torch.rand((), generator=generator, dtype=torch.float64)
        normal = torch.randn((), generator=generator, dtype=torch.float64)
        further = torch.randn(noise.shape, generator=generator)
        if self.offset:
            noise = noise + self.offset * constants
        if self.timesteps is not None:
            low, high = self.timesteps
            share = normal.sigmoid() if self.logit_normal else uniform
            timestep = (low + (share * (high - low)).floor().long()).clamp(max=high - 1)
        return noise, noise + self.perturbation * further if self.perturbation else noise, timestep


@dataclass(frozen=True)
class Drawn:
    """Noise and timesteps of a batch."""

    noise: Tensor
    """(b c h w), which the UNet predicts."""
    input_noise: Tensor
    """(b c h w), which the UNet's input has."""
    timesteps: Tensor
    """(b,) int64"""

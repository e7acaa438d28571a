"""Randomness as an argument: one generator per image, on the CPU, so that an image depends on its seed alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def image_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image. Image i of a job has the seed `seed + i`, so each can be drawn again by itself."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_noise(shape: Sequence[int], generator: Generators, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise (b ...) float32; a sequence of generators draws each image of the batch from its own."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(tuple(shape), generator=generator).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}")
    return torch.stack([torch.randn(tuple(shape[1:]), generator=one) for one in generator]).to(device)


def derived_seed(*entropy: int) -> int:
    """A mix of non-negative integers, such as (seed, step): any change changes all of it."""
    state = np.random.SeedSequence((len(entropy), *entropy)).generate_state(2, np.uint32)
    return int(state[0]) << 31 ^ int(state[1])


def derived_generator(*entropy: int) -> torch.Generator:
    """A CPU generator with the `derived_seed`."""
    return torch.Generator("cpu").manual_seed(derived_seed(*entropy))

"""Randomness as an argument: one CPU generator per image, so that an image depends on its own seed alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def image_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image. Image i of a job has the seed `seed + i`, so each can be sampled again alone."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_noise(shape: Sequence[int], generator: Generators, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise (b ...) float32; of a sequence of generators, each is for one image of the batch."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(tuple(shape), generator=generator).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}")
    return torch.stack([torch.randn(tuple(shape[1:]), generator=one) for one in generator]).to(device)


def step_noise(
    shape: Sequence[int], generator: Generators, step: int, device: torch.device | str = "cpu", part: int = 0
) -> Tensor:
    """Standard normal noise (b ...) float32 for a step of a sampler: of (seed, step, part) of each image alone.

    `generator`: as in `draw_noise`; only its seed counts. `part`: for steps that need noise more than once.
    """
    if generator is None:
        return draw_noise(shape, None, device)
    if isinstance(generator, torch.Generator):
        return draw_noise(shape, derived_generator(generator.initial_seed(), step, part), device)
    return draw_noise(shape, [derived_generator(one.initial_seed(), step, part) for one in generator], device)


def derived_seed(*entropy: int) -> int:
    """A seed mixed from non-negative integers, such as (seed, step): any change gives an unrelated seed."""
    state = np.random.SeedSequence((len(entropy), *entropy)).generate_state(2, np.uint32)
    return int(state[0]) << 31 ^ int(state[1])


def derived_generator(*entropy: int) -> torch.Generator:
    """A CPU generator with the `derived_seed`."""
    return torch.Generator("cpu").manual_seed(derived_seed(*entropy))

"""Sampling with a checkpoint."""

from pathlib import Path

import torch

from benchmarks.tools.image_sampler import ImageSampler

CPU = torch.device("cpu")


def test_images_are_those_of_the_command(tiny_checkpoint: Path) -> None:
    sampler = ImageSampler(tiny_checkpoint, CPU)
    prompts = ["a red ball", "a blue hat", "a red ball", "a cat", "a dog"]
    sampled = sampler.sample(prompts, [1, 2, 1, 3, 4])
    assert sampled.shape == (5, 3, 32, 32)
    assert torch.allclose(sampled[0], sampled[2], atol=1e-5) and not torch.allclose(sampled[0], sampled[1], atol=0.01)
    assert torch.allclose(sampler.sample(prompts[3:4], [3])[0], sampled[3], atol=1e-4)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert sampler.reconstruct(images).shape == images.shape

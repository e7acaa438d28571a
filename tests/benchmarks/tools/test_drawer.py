"""A checkpoint to draw with."""

from pathlib import Path

import torch

from benchmarks.tools.drawer import Drawer

CPU = torch.device("cpu")


def test_a_drawer_draws_what_the_command_would(tiny_checkpoint: Path) -> None:
    drawer = Drawer(tiny_checkpoint, CPU)
    prompts = ["a red ball", "a blue hat", "a red ball", "a cat", "a dog"]
    drawn = drawer.draw(prompts, [1, 2, 1, 3, 4])
    assert drawn.shape == (5, 3, 32, 32)
    assert torch.allclose(drawn[0], drawn[2], atol=1e-5) and not torch.allclose(drawn[0], drawn[1], atol=0.01)
    assert torch.allclose(drawer.draw(prompts[3:4], [3])[0], drawn[3], atol=1e-4)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert drawer.reconstruct(images).shape == images.shape

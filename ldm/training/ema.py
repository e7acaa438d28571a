"""Trainings from scratch: an exponential moving average of the weights is saved, not the latest weights.

"Acceleration of Stochastic Approximation by Averaging" (Polyak, Juditsky 1992) as DDPM (arXiv 2006.11239) uses it.
Not `torch.optim.swa_utils.AveragedModel`: it copies the whole model, also networks that are fixed, and the decay of its
EMA does not grow. Here the trained weights have an average, which takes their place while they are saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ldm.training.module import TrainingModule


class WeightAverage(nn.Module):
    """average <- decay * average + (1 - decay) * weights, after each update. Buffers: part of the resume state.

    After update n the decay is at most (1 + n) / (10 + n); otherwise the random first weights would dominate for long.
    """

    def __init__(self, parts: dict[str, nn.Module], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._weights = {
            f"{part}/{name}".replace(".", "/"): parameter
            for part, network in parts.items()
            for name, parameter in network.named_parameters()
        }
        for name, weight in self._weights.items():
            self.register_buffer(name, weight.detach().clone())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates the average after update `step` of the weights, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self._weights.values()]
        torch._foreach_lerp_(self._averages(), weights, 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """In this block the networks hold the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._weights.values(), self._averages(), strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)

    def _averages(self) -> list[Tensor]:
        return [self.get_buffer(name) for name in self._weights]


class AveragedTraining(TrainingModule):
    """A training from random weights. A subclass calls `start_average` once it has its networks."""

    gradient_patience = 4
    """Layers that start at zero block the gradient of what is before them until they have moved: first the UNet's last
    layer, then its transformers', then the text encoder's."""

    average: WeightAverage

    def start_average(self, decay: float) -> None:
        """Fixes all weights but the trained ones, whose average begins with their values."""
        self.train_only_trained_parts()
        self.average = WeightAverage(self.trained_parts(), decay)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Also updates the average, before callbacks save."""
        super().optimizer_step(*args, **kwargs)
        self.average.update(self.trainer.global_step + 1)

"""An exponential moving average of the weights, which is saved instead of the latest ones.

"Acceleration of Stochastic Approximation by Averaging" (Polyak, Juditsky 1992) as DDPM (arXiv 2006.11239) uses it.
Not `torch.optim.swa_utils.AveragedModel`: it copies the whole model, also networks that are fixed, and the decay of its
EMA does not grow. Here the trained weights have an average, which takes their place while they are saved.
Trainings from scratch always have one, a fine-tuning has one with `--ema-decay`.
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
    Fixed weights have no average. That of weights in bfloat16 is in float32: the small steps would be rounded away.
    """

    def __init__(self, parts: dict[str, nn.Module], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._weights = {
            f"{part}/{name}".replace(".", "/"): parameter
            for part, network in parts.items()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        for name, weight in self._weights.items():
            self.register_buffer(name, weight.detach().to(_at_least_float32(weight.dtype), copy=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates the average after update `step` of the weights, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self._weights.values()]
        if all(weight.dtype == average.dtype for weight, average in zip(weights, self._averages(), strict=True)):
            torch._foreach_lerp_(self._averages(), weights, 1.0 - decay)
            return
        for weight, average in zip(weights, self._averages(), strict=True):
            average.lerp_(weight.to(average.dtype), 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """In this block the networks hold the averaged weights, and the weights themselves are in the host's memory."""
        kept = [weight.detach().to("cpu", copy=True) for weight in self._weights.values()]
        try:
            self._set(self._averages())
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights.values(), values, strict=True):
            weight.copy_(value)

    def _averages(self) -> list[Tensor]:
        return [self.get_buffer(name) for name in self._weights]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


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

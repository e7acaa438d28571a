"""An exponential moving average of the weights: smoother than the latest ones, and what is shipped.

"Acceleration of Stochastic Approximation by Averaging" (Polyak, Juditsky 1992) as DDPM (arXiv 2006.11239) uses it.
Not `torch.optim.swa_utils`: its decay does not grow, and it keeps a second module instead of swapping weights in place.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """average <- decay * average + (1 - decay) * weights, after each update; buffers, so that a resume state has them.

    The decay grows with the number of updates up to its value, or the first, random weights would linger.
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
        """After update `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [weight.detach() for weight in self._weights.values()]
        torch._foreach_lerp_(self._averages(), weights, 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within, the networks have the averaged weights."""
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

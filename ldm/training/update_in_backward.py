"""Updates each weight within the backward pass, as soon as its gradient is complete, and frees the gradient.

The gradients of all weights never exist together ("LOMO", arXiv 2306.09782, section 3.1). Their common norm is then
known only after the backward pass; to clip by it, the gradients are computed twice (section 3.3).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

EPS = 1e-6
"""Added to a norm that is divided by, as in `torch.nn.utils.clip_grad_norm_`."""


def clip_each(parameters: list[nn.Parameter], max_norm: float) -> None:
    """Clips the norm of each gradient alone."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(clip_factor(torch.linalg.vector_norm(parameter.grad), max_norm))


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """What gradients of this norm, a scalar, are multiplied by."""
    return (max_norm / (norm + EPS)).clamp(max=1.0)


class UpdateInBackward:
    """From now on a backward pass updates these weights, clipped as in `ldm.choices.CLIPPING`; `max_norm` 0: not."""

    def __init__(self, optimizer: Optimizer, parameters: list[nn.Parameter], clip: str, max_norm: float) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.max_norm = max_norm
        self.clip = clip if max_norm else "none"
        self._factor: Tensor | None = None
        """What gradients are multiplied by to clip their common norm."""
        self._norms: dict[nn.Parameter, Tensor] | None = None
        """In a pass that measures, the norms so far."""
        self._nonzero: dict[nn.Parameter, Tensor] = {}
        self._group_of = {
            weight: number for number, group in enumerate(optimizer.param_groups) for weight in group["params"]
        }
        self._handles = [weight.register_post_accumulate_grad_hook(self._on_gradient) for weight in parameters]

    @property
    def needs_norm(self) -> bool:
        """Whether a pass in `measuring` has to come first."""
        return self.clip == "global"

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """In this block a backward pass changes no weight; the next one after it clips by the norm found here."""
        self._norms = {}
        try:
            yield
            norms = [self._norms[weight] for weight in self.parameters if weight in self._norms]
            self._factor = clip_factor(torch.linalg.vector_norm(torch.stack(norms)), self.max_norm)
        finally:
            self._norms = None

    def has_updated(self, parameters: Iterator[nn.Parameter]) -> bool:
        """Whether any of these weights had a gradient that is not zero, in the first backward pass."""
        return any(bool(self._nonzero[one]) for one in parameters if one in self._nonzero)

    def remove(self) -> None:
        """Ends it: a backward pass changes no weight any more."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _on_gradient(self, weight: Tensor) -> None:
        parameter = cast(nn.Parameter, weight)
        gradient = parameter.grad
        assert gradient is not None
        if self._norms is not None:
            self._norms[parameter] = torch.linalg.vector_norm(gradient)
        else:
            if parameter not in self._nonzero:
                self._nonzero[parameter] = gradient.any()
            if self.clip == "tensor":
                clip_each([parameter], self.max_norm)
            elif self._factor is not None:
                gradient.mul_(self._factor)
            del gradient
            self._update(parameter)
        parameter.grad = None

    def _update(self, parameter: nn.Parameter) -> None:
        update = getattr(self.optimizer, "update", None)
        if update is not None:
            update(parameter)
            return
        # An optimizer of torch's kind has a state per weight: for the moment this weight is all that it has.
        group = self.optimizer.param_groups[self._group_of[parameter]]
        parameters, group["params"] = group["params"], [parameter]
        try:
            self.optimizer.step()
        finally:
            group["params"] = parameters

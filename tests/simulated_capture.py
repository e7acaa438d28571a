"""A simulated capture of CUDA graphs, for machines without CUDA."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ldm.nn.graphed import nothing


class SimulatedCapture:
    """Captures as CUDA does: a replay reads the same buffers and writes outputs and gradients in place."""

    def __init__(self, parameters: Sequence[nn.Parameter] = ()) -> None:
        self.parameters = parameters
        self.captured = 0
        self.replayed = 0

    def __call__(
        self, call: Callable[[], Any], device: torch.device, release: Callable[[], object] = nothing
    ) -> tuple[Callable[[], object], Any]:
        self.captured += 1
        for _ in range(2):
            release()
            assert all(parameter.grad is None for parameter in self.parameters), "gradients would be allocated twice"
            outputs = call()
        gradients = [parameter.grad for parameter in self.parameters]

        def replay() -> None:
            self.replayed += 1
            kept = [parameter.grad for parameter in self.parameters]
            for output, new in zip(tree_leaves(outputs), tree_leaves(call()), strict=True):
                output.copy_(new)
            for parameter, gradient, before in zip(self.parameters, gradients, kept, strict=True):
                if gradient is not None:
                    gradient.copy_(parameter.grad)
                parameter.grad = before  # a replay doesn't change Python attributes

        return replay, outputs

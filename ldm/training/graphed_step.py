"""A training step's forward and backward pass as a CUDA graph, captured once and replayed.

With small networks or batches a GPU waits for Python, which launches thousands of kernels a step. A graph is one
launch. Clipping and the optimizer's few fused kernels stay outside.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ldm.nn.graphed import Capture, GraphedCall, nothing

Losses = Callable[[Any], dict[str, Tensor]]
"""batch, a mapping of tensors -> scalars by name; `total` is minimised."""
Step = tuple[Tensor, dict[str, Tensor]]


class GraphedStep:
    """Called with a batch: returns its losses, detached, and sets the gradients of `parameters`.

    All batches have the same shapes. A replay writes the gradients into the memory that they had at the capture: after
    use they may be changed, and need not be cleared. The next call overwrites the losses. If the capture fails, or a
    replay's losses and gradient norms differ from the eager step's on the same batch, a warning is logged and all steps
    run eagerly.
    """

    total_norm: Tensor
    """Norm of all gradients together, a scalar, for clipping: in the graph it costs no launches."""

    def __init__(
        self, losses: Losses, parameters: list[nn.Parameter], autocast_dtype: torch.dtype | None, capture: Capture
    ) -> None:
        self.losses = losses
        self.parameters = parameters
        self.autocast_dtype = autocast_dtype
        self._capture = capture
        self._graphed = GraphedCall(self._run, self._capture_with_gradients)

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        norms, losses = self._graphed(batch)
        self.total_norm = torch.linalg.vector_norm(norms)
        return losses

    def forget(self) -> None:
        """Releases the graph's memory and the gradients; the next call captures a new graph."""
        self._graphed.forget()
        self._free_gradients()

    def _free_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _run(self, batch: dict[str, Tensor]) -> Step:
        """The norm of each gradient (n,), and the losses."""
        self._free_gradients()  # otherwise the backward pass adds to them
        with self._autocast(next(iter(batch.values())).device.type):
            losses = self.losses(batch)
        losses["total"].backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack(list(torch._foreach_norm(gradients)))
        return norms, {name: loss.detach() for name, loss in losses.items()}

    def _autocast(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        """Within the graph. Without autocast's cache, which would outlive an update of the weights it casts."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device_type, self.autocast_dtype, cache_enabled=False)

    def _capture_with_gradients(
        self, call: Callable[[], Step], device: torch.device, release: Callable[[], object] = nothing
    ) -> tuple[Callable[[], object], Step]:
        replay, outputs = self._capture(call, device, self._free_gradients)
        gradients = [parameter.grad for parameter in self.parameters]

        def replay_into_gradients() -> None:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient  # an eager step in between replaces it
            replay()

        return replay_into_gradients, outputs

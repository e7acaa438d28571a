"""A training step's forward and backward pass, captured once and replayed.

A GPU waits for Python where networks or batches are small: a step is thousands of kernels. As a CUDA graph they are one
launch. Clipping and the optimizer's few fused kernels stay outside.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ldm.nn.graphed import Capture, GraphedCall, nothing

Losses = Callable[[Any], dict[str, Tensor]]
"""From a batch, a mapping of tensors, to scalars by name; `total` is what is minimised."""
Step = tuple[Tensor, dict[str, Tensor]]


class GraphedStep:
    """Called with a batch: returns its losses, detached, and leaves their gradients in `parameters`.

    All batches have the same shapes. A replay overwrites the gradients in the memory of the captured ones: they may be
    changed and need no clearing. The next call overwrites the losses. If the capture fails, or its losses and norms of
    gradients differ from the eager step's on the same batch, a warning is logged and all steps run eagerly.
    """

    total_norm: Tensor
    """Norm of all gradients together, a scalar: clipping needs it, and here it costs no launches."""

    def __init__(
        self, losses: Losses, parameters: list[nn.Parameter], autocast_dtype: torch.dtype | None, capture: Capture
    ) -> None:
        self.losses = losses
        self.parameters = parameters
        self.autocast_dtype = autocast_dtype
        self._capture = capture
        self._graphed_call = GraphedCall(self._run, self._capture_with_gradients)

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        norms, losses = self._graphed_call(batch)
        self.total_norm = torch.linalg.vector_norm(norms)
        return losses

    def forget(self) -> None:
        """Frees the graph's memory, also that of the gradients; the next call captures a new one."""
        self._graphed_call.forget()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _run(self, batch: dict[str, Tensor]) -> Step:
        """The norm of each gradient (n,), for comparing and clipping, and the losses."""
        self._drop_gradients()  # so that the backward pass sets them and doesn't add to them
        with self._autocast(next(iter(batch.values())).device.type):
            losses = self.losses(batch)
        losses["total"].backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack(list(torch._foreach_norm(gradients)))
        return norms, {name: loss.detach() for name, loss in losses.items()}

    def _autocast(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        """Entered and left inside the captured call; without a cache, which would outlive an update of weights."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device_type, self.autocast_dtype, cache_enabled=False)

    def _capture_with_gradients(
        self, call: Callable[[], Step], device: torch.device, release: Callable[[], object] = nothing
    ) -> tuple[Callable[[], object], Step]:
        replay, outputs = self._capture(call, device, self._drop_gradients)
        gradients = [parameter.grad for parameter in self.parameters]

        def replay_into_gradients() -> None:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient  # an eager step in between would have replaced it
            replay()

        return replay_into_gradients, outputs

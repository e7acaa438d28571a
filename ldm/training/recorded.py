"""A training step's forward and backward pass, recorded once and replayed.

A GPU waits for Python where networks or batches are small: a step is thousands of kernels. As a CUDA graph they are one
launch. Clipping and the optimizer's few fused kernels stay outside.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm.nn.static_call import Record, StaticCall, nothing

Losses = Callable[[Any], dict[str, Tensor]]
"""From a batch, a mapping of tensors, to scalars by name; `total` is what is minimised."""


class RecordedStep:
    """Called with a batch: returns its losses, detached, and leaves their gradients in `parameters`.

    All batches have the same shapes. A replay writes its gradients where they were when it was recorded: whoever has
    used them may change them, and needn't clear them. The losses are overwritten by the next call. If recording fails,
    or if its losses and gradients' norms aren't those of the plain step on the same batch, a warning says so and all
    steps are plain.
    """

    total_norm: Tensor
    """Norm of all gradients together, a scalar: clipping needs it, and here it costs no launches."""

    def __init__(
        self, losses: Losses, parameters: list[nn.Parameter], autocast_dtype: torch.dtype | None, record: Record
    ) -> None:
        self.losses = losses
        self.parameters = parameters
        self.autocast_dtype = autocast_dtype
        self._record = record
        self._static = StaticCall(self._run, self._record_with_gradients)
        self._inputs: tuple[str, ...] = ()
        self._outputs: tuple[str, ...] = ()

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._inputs = tuple(batch)
        inputs, could = tuple(batch.values()), self._static.works
        norms, *losses = self._static(*inputs)
        if could and not self._static.works:  # the attempt to record has left other gradients
            norms, *losses = self._run(*inputs)
        self.total_norm = torch.linalg.vector_norm(norms)
        return dict(zip(self._outputs, losses, strict=True))

    def forget(self) -> None:
        """Gives back the recording's memory, that of the gradients included; the next call records anew."""
        self._static.forget()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The norm of each gradient (n,), for comparing and clipping, and the losses."""
        self._drop_gradients()  # so that the backward pass sets them and doesn't add to them
        with self._autocast(inputs[0].device.type):
            losses = self.losses(dict(zip(self._inputs, inputs, strict=True)))
        losses["total"].backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch.stack(list(torch._foreach_norm(gradients)))
        self._outputs = tuple(losses)
        return norms, *(loss.detach() for loss in losses.values())

    def _autocast(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        """Entered and left within what is recorded; its cache would outlive an update of the weights it was made of."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device_type, self.autocast_dtype, cache_enabled=False)

    def _record_with_gradients(
        self, call: Callable[[], tuple[Tensor, ...]], device: torch.device, release: Callable[[], object] = nothing
    ) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
        replay, outputs = self._record(call, device, self._drop_gradients)
        gradients = [parameter.grad for parameter in self.parameters]

        def replay_into_gradients() -> None:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient  # a plain step in between would have replaced it
            replay()

        return replay_into_gradients, outputs

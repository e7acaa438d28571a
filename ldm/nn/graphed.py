"""A function that is called often with inputs of the same shapes: recorded once, replayed from then on.

A GPU is faster with a small batch than Python is at telling it layer by layer what to do. A CUDA graph is all of a
call's work as one launch, but it reads and writes the memory that it was captured with. `GraphedCall` keeps this
memory: buffers that inputs are copied into, and outputs that stay where they are.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

log = logging.getLogger(__name__)

Out = TypeVar("Out")


def nothing() -> None:
    """Does nothing."""


class Record(Protocol):
    """Records a call, so that it can be replayed."""

    def __call__(
        self, call: Callable[[], Any], device: torch.device, release: Callable[[], object] = nothing
    ) -> tuple[Callable[[], object], Any]:
        """(replay, outputs): `replay()` puts the results of `call()` into `outputs`.

        `call` reads buffers which stay where they are, and may be called any number of times; `release` lets go of what
        a call has left behind. A `RuntimeError` says that it can't be recorded.
        """


WARM_UP_CALLS = 2
"""Before capturing, so that libraries have chosen their kernels and allocated their workspaces."""

AGREEMENT, AGREEMENT_OF_HALVES = 1e-3, 0.1
"""How far the first replay may be from the plain call, relative to its norm. What is looked for is a replay of memory
that it shouldn't read, which is wrong altogether; rounding, also a compiler's other rounding, stays below this."""


class GraphedCall(Generic[Out]):
    """`function`, called as before, but replayed from a recording as soon as there is one.

    Inputs are tensors or (nested) tuples and dictionaries of tensors, all on one device; outputs likewise, or a named
    tuple. The first call runs the function, then records it for these shapes and types and compares a replay with what
    the function gave. If recording fails or they don't agree, a warning says so and the function runs plainly from then
    on, beginning with this call. So it does for inputs of other shapes, such as a last smaller batch. What has to hold:

    - **Outputs are overwritten by the next call**: clone what is to be kept. (Those of plain calls are the caller's.)
    - An input that is the same tensor object as at the last call is not copied again. One that was changed in place
      since then is noticed, but not if it is an inference tensor.
    - Whatever else the function reads (weights) stays in its memory: after replacing it, `forget`. Changing it in place
      is fine.
    - The function may be run several times for one call, first with zeros for inputs, and leaves what one call would
      leave: it may set gradients, but not add to them or step an optimizer.
    - Modes are recorded too: call it always under the same autocast (without its cache where weights are trained) and
      gradient modes.
    - There is no random number, host synchronisation or branch on a tensor's value in it.
    """

    def __init__(self, function: Callable[..., Out], record: Record) -> None:
        self.function = function
        self.record = record
        self.works = True
        """False once recording has failed."""
        self._recording: _Graph | None = None

    def __call__(self, *inputs: Any) -> Out:
        if not self.works:
            return self.function(*inputs)
        if self._recording is None:
            return self._first_call(inputs)
        if _signature(inputs) != self._recording.signature:
            return self.function(*inputs)
        return self._recording.run(inputs)

    def forget(self) -> None:
        """Drops the recording and its memory; the next call records anew, for its own shapes."""
        self._recording = None

    def _first_call(self, inputs: tuple[Any, ...]) -> Out:
        expected = self.function(*inputs)
        if not all(bool(one.isfinite().all()) for one in tree_leaves(expected)):
            return expected  # nothing to compare with
        self._recording = self._try(inputs, expected)
        self.works = self._recording is not None
        return expected if self.works else self.function(*inputs)  # the attempt may have left other gradients

    def _try(self, inputs: tuple[Any, ...], expected: Out) -> "_Graph | None":
        """A recording that gives what is expected; None, after a warning, if there can't be one."""
        try:
            recording = _Graph(self.function, inputs, self.record)
            if not _agree(recording.run(inputs), expected):
                raise RuntimeError("its replay gives other numbers")
        except RuntimeError as error:  # torch's own errors are of this kind, out of memory too
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("a call runs without being recorded, which is slower: %s", reason)
            return None
        return recording


class _Graph:
    """One recorded call and the buffers it reads."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], record: Record) -> None:
        self.signature = _signature(inputs)
        with torch.inference_mode(False):  # buffers may be written to in any mode
            # Not the inputs: comparing then shows whether these are read at all. Their strides are kept where dense.
            buffers = tree_map(lambda tensor: torch.zeros_like(tensor, requires_grad=False), inputs)
        self._buffers: list[Tensor] = tree_leaves(buffers)
        self._last: list[tuple[Tensor | None, int | None]] = [(None, None)] * len(self._buffers)
        self._replay, self._outputs = record(lambda: function(*buffers), self._buffers[0].device)

    def run(self, inputs: tuple[Any, ...]) -> Any:
        tensors: list[Tensor] = tree_leaves(inputs)
        with torch.no_grad():
            for index, (buffer, tensor) in enumerate(zip(self._buffers, tensors, strict=True)):
                last, version = self._last[index]
                if last is not tensor or version != _version(tensor):
                    buffer.copy_(tensor)
                    self._last[index] = tensor, _version(tensor)
        self._replay()
        return self._outputs


def capture_cuda_graph(
    call: Callable[[], Out], device: torch.device, release: Callable[[], object] = nothing
) -> tuple[Callable[[], object], Out]:
    """Captures a call as a CUDA graph, after some on the same side stream, as capturing wants it."""
    # The current stream is set so that it is restored: in older versions of torch an aborted capture leaves its own.
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        release()
        torch.cuda.empty_cache()  # what earlier calls have used belongs to their stream: it would be taken twice
        side = _side_stream(device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        release()  # a capture can't use the memory of what is still there
        graph = torch.cuda.CUDAGraph()
        # Other threads, which read and write files, may do as they like meanwhile.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            outputs = call()
    return graph.replay, outputs


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: libraries keep a workspace, up to 32 MiB, for each stream that they were ever used on."""
    return torch.cuda.Stream(device)


def capture_compiled(
    call: Callable[[], Out],
    device: torch.device,
    release: Callable[[], object] = nothing,
    backend: str = "inductor",
) -> tuple[Callable[[], object], Out]:
    """Compiles a call with torch.compile, on any device: slow to begin, and rounding otherwise than the plain call."""
    compiled = torch.compile(call, dynamic=False, backend=backend)
    outputs = compiled()

    def replay() -> None:
        for output, new in zip(tree_leaves(outputs), tree_leaves(compiled()), strict=True):
            output.copy_(new)

    return replay, outputs


def _signature(value: Any) -> Any:
    """Structure, shapes, types and devices."""
    return tree_structure(value), [(tensor.shape, tensor.dtype, tensor.device) for tensor in tree_leaves(value)]


def _version(tensor: Tensor) -> int | None:
    """Grows with every change in place; inference tensors don't count."""
    return None if tensor.is_inference() else tensor._version


def _agree(replayed: Any, expected: Any) -> bool:
    for one, other in zip(tree_leaves(replayed), tree_leaves(expected), strict=True):
        tolerance = AGREEMENT if torch.finfo(other.dtype).bits >= 32 else AGREEMENT_OF_HALVES
        one, other = one.detach().float(), other.detach().float()
        if not bool((one - other).norm() <= tolerance * other.norm()):
            return False
    return True

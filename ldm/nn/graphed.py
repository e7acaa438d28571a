"""A function that is called often with inputs of the same shapes: captured once, replayed from then on.

For small batches a GPU computes faster than Python launches its kernels layer by layer. A CUDA graph is all of a call's
kernels as one launch, but it reads and writes the memory that it was captured with. `GraphedCall` owns this memory:
buffers into which inputs are copied, and outputs that each replay overwrites.
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


class Capture(Protocol):
    """Captures a call, so that it can be replayed."""

    def __call__(
        self, call: Callable[[], Any], device: torch.device, release: Callable[[], object] = nothing
    ) -> tuple[Callable[[], object], Any]:
        """(replay, outputs): `replay()` writes the results of `call()` into `outputs`.

        `call` reads fixed buffers and may run any number of times; `release` frees memory that a call leaves behind.
        Raises `RuntimeError` if the call can't be captured.
        """


WARM_UP_CALLS = 2
"""Calls before the capture, in which libraries choose their kernels and allocate their workspaces."""

AGREEMENT, AGREEMENT_OF_HALVES = 1e-3, 0.1
"""How far the first replay may be from the eager call, relative to its norm. A replay that reads wrong memory differs
completely; rounding, also that of a compiler, stays below this."""


class GraphedCall(Generic[Out]):
    """`function`, called as before, but replayed from a captured graph once there is one.

    Inputs are tensors or (nested) tuples and dictionaries of tensors, all on one device; outputs likewise, or a named
    tuple. The first call runs the function eagerly, captures it for these shapes and types, and compares a replay with
    the eager result. If the capture fails or the results disagree, a warning is logged and the function runs eagerly
    from then on, beginning with this call. Inputs of other shapes, such as a last smaller batch, always run eagerly.
    Requirements:

    - **Outputs are overwritten by the next call**: clone those to keep. (Outputs of eager calls are the caller's.)
    - An input that is the same tensor object as in the last call is not copied again, unless it was changed in place
      since then. For inference tensors changes in place are not noticed.
    - Other tensors that the function reads (weights) keep their memory: call `forget` after replacing them. They may
      change in place.
    - The function may run several times for one call, first with zero inputs, and must leave the state of one call:
      it may set gradients, but not add to them or step an optimizer.
    - Modes are captured too: always call it in the same autocast mode (without autocast's cache where weights are
      trained) and gradient mode.
    - It draws no random numbers, never synchronises with the host and doesn't branch on a tensor's value.
    """

    def __init__(self, function: Callable[..., Out], capture: Capture) -> None:
        self.function = function
        self.capture = capture
        self.works = True
        """False once a capture has failed."""
        self._graph: _Graph | None = None

    def __call__(self, *inputs: Any) -> Out:
        if not self.works:
            return self.function(*inputs)
        if self._graph is None:
            return self._first_call(inputs)
        if _signature(inputs) != self._graph.signature:
            return self.function(*inputs)
        return self._graph.run(inputs)

    def forget(self) -> None:
        """Frees the graph and its memory; the next call captures a new one, for its own shapes."""
        self._graph = None

    def _first_call(self, inputs: tuple[Any, ...]) -> Out:
        expected = self.function(*inputs)
        if not all(bool(one.isfinite().all()) for one in tree_leaves(expected)):
            return expected  # can't be compared
        self._graph = self._capture_checked(inputs, expected)
        self.works = self._graph is not None
        return expected if self.works else self.function(*inputs)  # the attempt may have changed gradients

    def _capture_checked(self, inputs: tuple[Any, ...], expected: Out) -> "_Graph | None":
        """A graph whose replay gives the expected result; None, after a warning, if the capture fails."""
        try:
            graph = _Graph(self.function, inputs, self.capture)
            if not _agree(graph.run(inputs), expected):
                raise RuntimeError("its replay gives other numbers")
        except RuntimeError as error:  # includes torch's errors, also out of memory
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("graph capture failed; running eagerly, which is slower: %s", reason)
            return None
        return graph


class _Graph:
    """One captured call and its input buffers."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], capture: Capture) -> None:
        self.signature = _signature(inputs)
        with torch.inference_mode(False):  # so that they can be written in any mode
            # Zeros, not the inputs: the comparison then fails if a replay doesn't read them. Dense strides are kept.
            buffers = tree_map(lambda tensor: torch.zeros_like(tensor, requires_grad=False), inputs)
        self._buffers: list[Tensor] = tree_leaves(buffers)
        self._last: list[tuple[Tensor | None, int | None]] = [(None, None)] * len(self._buffers)
        self._replay, self._outputs = capture(lambda: function(*buffers), self._buffers[0].device)

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
    """Captures a call as a CUDA graph, after warm-up calls on the same side stream, as CUDA requires."""
    # Entering the current stream restores it: in older versions of torch a failed capture leaves its own.
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        release()
        torch.cuda.empty_cache()  # else cached blocks of other streams would be allocated again for this one
        side = _side_stream(device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        release()  # a capture can't reuse memory that is still in use
        graph = torch.cuda.CUDAGraph()
        # Other threads, which read and write files, may call CUDA meanwhile.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            outputs = call()
    return graph.replay, outputs


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures: libraries keep a workspace of up to 34 MB for each stream they were used on."""
    return torch.cuda.Stream(device)


def capture_compiled(
    call: Callable[[], Out],
    device: torch.device,
    release: Callable[[], object] = nothing,
    backend: str = "inductor",
) -> tuple[Callable[[], object], Out]:
    """Compiles a call with torch.compile, on any device: slow to start, and rounds differently from the eager call."""
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
    """A counter of changes in place; None for inference tensors, which have none."""
    return None if tensor.is_inference() else tensor._version


def _agree(replayed: Any, expected: Any) -> bool:
    for one, other in zip(tree_leaves(replayed), tree_leaves(expected), strict=True):
        tolerance = AGREEMENT if torch.finfo(other.dtype).bits >= 32 else AGREEMENT_OF_HALVES
        one, other = one.detach().float(), other.detach().float()
        if not bool((one - other).norm() <= tolerance * other.norm()):
            return False
    return True

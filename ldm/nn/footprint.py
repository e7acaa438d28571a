"""How much memory the tensors of a computation need at once: counted, without computing or allocating any of it.

On fake tensors every operation only says what shape it would return; autograd keeps for the backward pass what it would
keep. Not seen is what a kernel allocates for itself while it runs, and what an allocator loses between blocks.
"""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldm.nn.weightless import NoInitialisation


class Footprint(TorchDispatchMode):
    """Inside this context counts the bytes of all storages that operations touch, each from its first use to its end.

    Views share a storage and count once. Tensors made before count from their first use, or from `watch` on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        """Bytes alive now."""
        self.peak = 0
        """Most bytes alive at once since the start or the last `restart`."""
        self._seen: dict[int, tuple[weakref.ref[Any], int]] = {}

    def watch(self, *values: object) -> None:
        """Counts the tensors in these (nested) values from now on."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self._count(value)
        self.peak = max(self.peak, self.live)

    def restart(self) -> None:
        """Forgets the peak so far; what is alive still counts."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace != "prim":  # questions about a tensor, two of three calls
            self.watch(args, kwargs, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._seen.get(key)
        if known is not None and known[0]() is storage:
            self.live += size - known[1]  # a storage can be resized
            self._seen[key] = known[0], size
            return
        self._seen[key] = weakref.ref(storage, lambda _: self._forget(key)), size
        self.live += size

    def _forget(self, key: int) -> None:
        self.live -= self._seen.pop(key)[1]


def peak_bytes(function: Callable[[], object], *, fake: bool = True) -> int:
    """The most bytes of tensors alive at once while `function` runs.

    By default on fake tensors: all that `function` computes with it has to make itself. Its tensors are the CPU's, on
    which attention is one operation that keeps no matrix of all pairs, as on a GPU. With `fake` off it really runs, and
    tensors that were there before count once they are used.
    """
    footprint = Footprint()
    if fake:
        with FakeTensorMode(), NoInitialisation(), footprint:
            function()
    else:
        with footprint:
            function()
    return footprint.peak

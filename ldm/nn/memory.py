"""Memory: what a device has free, what a computation takes; computing in batches; building networks without memory."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a CUDA device, after torch has released its cache; None for other kinds of devices.

    Querying a device creates a CUDA context there, which takes some hundred MB until the process ends: query only a
    device that this process computes on.
    """
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def total_memory(device: torch.device) -> int | None:
    """All bytes of a CUDA device, free or not; None for other kinds of devices."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


@contextmanager
def on_host(networks: Sequence[nn.Module]) -> Iterator[None]:
    """In this block the networks wait in the host's memory, trained ones too. Where that is the device, none moves."""
    tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    devices = [tensor.device for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.detach().cpu()
    try:
        yield
    finally:
        for tensor, device in zip(tensors, devices, strict=True):
            tensor.data = tensor.detach().to(device)


def apply_in_batches(inputs: Tensor, batch_size: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies a function (b ...) -> (b d) to inputs of any number in batches of at most `batch_size`.

    The function never gets an empty batch, on which some kernels fail: no inputs give (0 d), found with one zero input.
    """
    if not len(inputs):
        return function(inputs.new_zeros(1, *inputs.shape[1:]))[:0]
    return torch.cat([function(batch) for batch in inputs.split(batch_size)])


class NoInitialisation(TorchFunctionMode):
    """Inside this context `torch.nn.init` leaves tensors as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def weightless() -> Iterator[None]:
    """Modules built inside this context are on the meta device and not initialised: no memory, half the time."""
    with torch.device("meta"), NoInitialisation():
        yield


class Footprint(TorchDispatchMode):
    """Counts the bytes of all storages that operations use inside this context, each from its first use to its end.

    Views share a storage and count once. Tensors made before count from their first use, or from `watch` on. What a
    kernel allocates for itself while it runs and gaps between an allocator's blocks are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        """Bytes alive now."""
        self.peak = 0
        """Most bytes alive at once since the start or the last `restart`."""
        self._storages: dict[int, tuple[weakref.ref[Any], int]] = {}

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
        if func.namespace != "prim":  # queries about a tensor, two of three calls
            self.watch(args, kwargs, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._storages.get(key)
        if known is not None and known[0]() is storage:
            self.live += size - known[1]  # a storage can be resized
            self._storages[key] = known[0], size
            return
        self._storages[key] = weakref.ref(storage, lambda _: self._forget(key)), size
        self.live += size

    def _forget(self, key: int) -> None:
        self.live -= self._storages.pop(key)[1]


def peak_bytes(function: Callable[[], object], *, fake: bool = True) -> int:
    """The most bytes of tensors alive at once while `function` runs.

    By default `function` runs on fake tensors, which have shapes and no numbers: nothing is computed or allocated, and
    autograd keeps what it would keep. `function` must create all its tensors. They are on the CPU, where attention is
    one operation without a matrix of all pairs, as on a GPU. With `fake=False` `function` really runs, and tensors made
    earlier count once they are used.
    """
    footprint = Footprint()
    if fake:
        with FakeTensorMode(), NoInitialisation(), footprint:
            function()
    else:
        with footprint:
            function()
    return footprint.peak

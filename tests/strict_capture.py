"""What a capture of a CUDA graph forbids, found without CUDA: the device is torch's `meta`, whose tensors have no data.

There reading a number on the host fails, and so does mixing in tensors of the CPU. What `meta` allows and a capture
does not, or what a replay would repeat with the same numbers, is refused by `StrictCapture`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


class CaptureError(Exception):
    """A capture would refuse this call."""


class StrictCapture(TorchDispatchMode):
    """In this block each tensor has to be on `META`, and no operation draws random numbers or waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if torch.Tag.nondeterministic_seeded in func.tags and not _without_dropout(func, args, kwargs or {}):
            raise CaptureError(f"{func} draws random numbers")
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags} and not _by_numbers(
            func, args
        ):
            raise CaptureError(f"{func} needs a tensor's values on the host")
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, found)):
            if isinstance(value, Tensor) and value.device != META:
                raise CaptureError(f"{func} uses a tensor on the host")
        return found


def _without_dropout(func: Any, args: Any, kwargs: Any) -> bool:
    """Attention draws random numbers for its dropout only."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return "dropout_p" in names and not given.get("dropout_p", 0.0)


def _by_numbers(func: Any, args: Any) -> bool:
    """Indexing by numbers, not by a mask, has a result of known shape."""
    return func is torch.ops.aten.index.Tensor and all(one is None or one.dtype != torch.bool for one in args[1])

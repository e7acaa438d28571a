"""Networks that have shapes and no weights: they take no memory, and are built in half the time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class NoInitialisation(TorchFunctionMode):
    """In this context every tensor stays as it is that `torch.nn.init` would fill."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def weightless() -> Iterator[None]:
    """Modules that are built in this context lie on the meta device, and nothing is done to initialise them."""
    with torch.device("meta"), NoInitialisation():
        yield

"""Networks that are not needed while others train: they wait in the host's memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

HOST = torch.device("cpu")


class OffloadedNetworks:
    """Networks whose weights don't change. On a device that is the host itself nothing is moved."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        self._waiting: list[Tensor] | None = None

    def leave(self) -> None:
        """Moves them to the host; the copies that are made by the first call are used by all later ones."""
        if self._waiting is None:
            self._waiting = [tensor.detach().to(HOST) for tensor in self._tensors]
        for tensor, waiting in zip(self._tensors, self._waiting, strict=True):
            tensor.data = waiting

    @contextmanager
    def present(self, device: torch.device, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Has them on the device, their numbers as `dtype` if it is given; then they leave."""
        self.leave()
        for tensor in self._tensors:
            tensor.data = tensor.to(device, dtype if tensor.is_floating_point() else None)
        try:
            yield
        finally:
            self.leave()

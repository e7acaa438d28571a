"""Other hardware than there is."""

import pytest
import torch


class Machine:
    """Makes torch see other hardware."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.has()

    def has(self, gpus: int = 0, mps: bool = False, bf16: bool = True) -> None:
        """So many GPUs, or Apple's, and whether they know bfloat16."""
        self.monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        self.monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        self.monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if bf16 else (7, 5))
        self.monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

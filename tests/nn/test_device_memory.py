"""Free memory of devices, with CUDA simulated."""

import pytest
import torch

from ldm.nn.device_memory import free_memory


def test_what_torch_keeps_for_later_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [3]
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * device.index - sum(kept), 40))
    assert free_memory(torch.device("cuda", 2)) == 20


@pytest.mark.parametrize("kind", ["cpu", "mps", "meta"])
def test_other_devices_do_not_tell(kind: str) -> None:
    assert free_memory(torch.device(kind)) is None

"""Weights stay in the file until they are used, are held in memory once, and never find their way back into it."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ldm.checkpoint.loading import Placement, load_model
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import checkpoint_writer, official_state_dict
from tests.tiny import build_tiny_model, tiny_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FORMATS = ["safetensors", "ckpt"]
CPU = torch.device("cpu")


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    return path


def files_under(tensors: Iterable[Tensor]) -> set[str]:
    """The files which are mapped where the tensors' values lie; empty names for plain memory."""
    found = set()
    addresses = [tensor.data_ptr() for tensor in tensors]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, last = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in span.split("-"))
        if any(start <= address < end for address in addresses):
            found.add(last if last.startswith("/") else "")
    return found


def memory_in_use(kind: str) -> int:
    """Bytes of this process's memory that are in RAM: of files ("RssFile") or its own ("RssAnon")."""
    match = re.search(rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match
    return 1024 * int(match.group(1))


@pytest.mark.parametrize("suffix", FORMATS)
def test_tensors_are_the_files_own_bytes(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", {"a": torch.arange(100_000.0), "b": torch.ones(3).half()})
    tensors = read_checkpoint(path).tensors.values()
    assert files_under(tensors) == {str(path)}
    copies = [tensor.clone() for tensor in tensors]
    assert files_under(copies) == {""}


@pytest.mark.parametrize("suffix", FORMATS)
def test_reading_takes_no_memory_until_weights_are_used(suffix: str, tmp_path: Path) -> None:
    size = 200 * 2**20
    path = write(tmp_path / f"a.{suffix}", {str(i): torch.ones(size // 16, dtype=torch.float32) for i in range(4)})
    assert path.stat().st_size >= size
    own, mapped = memory_in_use("RssAnon"), memory_in_use("RssFile")
    tensors = read_checkpoint(path).tensors
    assert memory_in_use("RssAnon") - own < size // 10
    assert memory_in_use("RssFile") - mapped < size // 10
    assert sum(tensor.sum().item() for tensor in tensors.values()) == size // 4
    assert memory_in_use("RssAnon") - own < size // 10  # used, and still not copied
    assert memory_in_use("RssFile") - mapped > size // 2
    path.unlink()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_loaded_models_weights_are_the_files_own_bytes(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", official_state_dict(build_tiny_model(), torch.float32))
    model = load_model(path, tiny_config(), Placement(CPU))
    assert files_under(model.parameters()) == {str(path)}
    halved = load_model(path, tiny_config(), Placement(CPU, torch.bfloat16))
    assert files_under(halved.parameters()) == {""}


@pytest.mark.parametrize("suffix", FORMATS)
def test_training_a_loaded_model_leaves_the_file_alone(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", official_state_dict(build_tiny_model(), torch.float32))
    before, time = path.read_bytes(), path.stat().st_mtime_ns
    model = load_model(path, tiny_config(), Placement(CPU))
    other = load_model(path, tiny_config(), Placement(CPU))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == time
    again = load_model(path, tiny_config(), Placement(CPU))
    for changed, kept, fresh in zip(model.parameters(), other.parameters(), again.parameters(), strict=True):
        assert torch.equal(kept, fresh)
        assert not torch.equal(changed, fresh)


def test_a_loaded_model_lives_on_when_its_file_is_replaced(tmp_path: Path) -> None:
    """A checkpoint is written beside the old one and renamed, so that processes that read the old one keep it."""
    path = tmp_path / "a.safetensors"
    checkpoint_writer(path, build_tiny_model(1), CheckpointInfo(), torch.float32)()
    old = load_model(path, tiny_config(), Placement(CPU))
    checkpoint_writer(path, build_tiny_model(2), CheckpointInfo(), torch.float32)()
    new = load_model(path, tiny_config(), Placement(CPU))
    for model, seed in ((old, 1), (new, 2)):
        for actual, expected in zip(model.parameters(), build_tiny_model(seed).parameters(), strict=True):
            assert torch.equal(actual, expected)

"""convert.py between the layouts of textual inversions: the same bits, and what does not go together."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ldm.checkpoint.embedding import read_embedding
from ldm.checkpoint.embedding_saving import embedding_writer
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from tests.commands.calls import call, info_of, refused

VECTORS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "step-00002.safetensors"
    embedding_writer(path, VECTORS, "sks", CheckpointInfo(class_name="can", step=2), torch.float32, {})()
    return path


def test_all_layouts_hold_the_same_bits_and_our_metadata_come_back(ours: Path, tmp_path: Path) -> None:
    source = ours
    for name in ("can.pt", "can.bin", "can.safetensors"):
        target = tmp_path / name
        outcome = call("convert", source, target, "--to", "embedding")
        assert outcome.status == 0, outcome.said
        assert torch.equal(read_embedding(read_checkpoint(target)).vectors, VECTORS)
        source = target
    assert "an embedding, 2 vectors of 32 numbers, float32" in outcome.said
    a1111 = torch.load(tmp_path / "can.pt", weights_only=True)
    assert (a1111["name"], a1111["step"], [*a1111["string_to_param"]]) == ("sks", 2, ["*"])
    assert [*torch.load(tmp_path / "can.bin", weights_only=True)] == ["can"]
    assert call("convert", ours, tmp_path / "half.safetensors", "--half", "--token", "<can>").status == 0
    tensors = load_file(tmp_path / "half.safetensors")
    assert tensors.keys() == {"<can>"} and torch.equal(tensors["<can>"], VECTORS.half())
    assert info_of(tmp_path / "half.safetensors").class_name == "can"
    assert read_embedding(read_checkpoint(tmp_path / "half.safetensors")).token == "<can>"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["x.safetensors", "--to", "official"], "is an embedding, not a model"),
        (["x.png"], "name OUT with .safetensors, .pt, .bin"),
        (["x.pt", "--ema"], "--ema is for whole models"),
        (["x.pt", "--token", "can"], "name OUT can.pt"),
        (["step-00002.safetensors"], "OUT is IN itself"),
    ],
)
def test_mistakes_write_nothing(
    flags: list[str], words: str, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(call("convert", ours, *flags), words)
    assert [path.name for path in tmp_path.iterdir()] == [ours.name]

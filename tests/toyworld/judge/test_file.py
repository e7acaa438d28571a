"""The judge's file: what comes back, how large it is, and what is not taken for one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.checkpoint.reading import read_checkpoint
from ldm.errors import UserError
from ldm.toyworld.judge.file import CONFIG, judge_writer, load_judge
from tests.judges import SIZE, TINY_JUDGE, build_tiny_judge


@pytest.fixture
def path(tmp_path: Path) -> Path:
    judge_writer(tmp_path / "judge.safetensors", build_tiny_judge(), "abc")()
    return tmp_path / "judge.safetensors"


def rewrite(path: Path, metadata: dict[str, str] | None = None, **changes: Any) -> None:
    """Writes the file again with other metadata; tensors of None are left out."""
    tensors = {**load_file(path), **changes}
    kept = read_checkpoint(path).metadata if metadata is None else metadata
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata=kept)


def test_a_judge_comes_back_as_half_precision_holds_it(path: Path) -> None:
    judge, digest = load_judge(path)
    original = build_tiny_judge().eval()
    assert (judge.config, digest) == (TINY_JUDGE, "abc")
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    for (name, loaded), saved in zip(judge.state_dict().items(), original.state_dict().values(), strict=True):
        assert loaded.dtype == saved.dtype
        assert torch.equal(loaded, saved.half().to(saved.dtype)), name
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(judge(images).image, original(images).image, atol=0.01)


def test_the_file_is_in_half_precision(path: Path) -> None:
    types = {tensor.dtype for tensor in load_file(path).values()}
    assert types == {torch.float16, torch.int64}  # batch normalisation counts its batches
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_broken_weights_are_not_written(tmp_path: Path) -> None:
    judge = build_tiny_judge()
    torch.nn.init.constant_(judge.heads["class"].bias, 1e6)
    with pytest.raises(UserError, match=r"heads\.class\.bias is not finite"):
        judge_writer(tmp_path / "judge.safetensors", judge, "")()
    assert list(tmp_path.iterdir()) == []


def test_missing_additional_and_other_tensors_are_refused(path: Path) -> None:
    rewrite(path, **{"heads.class.bias": None, "heads.taste.bias": torch.zeros(3), "log_scale": torch.zeros(2)})
    with pytest.raises(UserError) as error:
        load_judge(path)
    message = str(error.value)
    assert "1 missing: heads.class.bias" in message and "1 unexpected: heads.taste.bias" in message
    assert "log_scale (2,) instead of ()" in message


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "is no judge"),
        ({CONFIG: "{"}, "damaged"),
        ({CONFIG: "3"}, "damaged"),
        ({CONFIG: json.dumps({"heads": [], "breadth": 3})}, "unknown key 'breadth'"),
        ({CONFIG: json.dumps({"heads": [], "size": 18})}, "multiple"),
        ({CONFIG: "[" * 100_000}, "damaged"),
    ],
)
def test_other_metadata_are_refused(path: Path, metadata: dict[str, str], message: str) -> None:
    rewrite(path, metadata)
    with pytest.raises(UserError, match=message):
        load_judge(path)


def test_a_cut_off_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged or cut off"):
        load_judge(path)
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_judge(path.with_name("other.safetensors"))

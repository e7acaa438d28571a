"""Reading: every kind of good file, and a clear message about every kind of bad one."""

import os
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import save_file

from ldm.checkpoint import keys, reading
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import Format, read_checkpoint
from ldm.errors import UserError
from tests.checkpoint.files import few_tensors, lightning_content, pretend_lightning, replace_pickle, same_tensors


def error_of(path: Path) -> str:
    """The message of the refusal, which has to name the file."""
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    return str(error.value)


def write_safetensors(path: Path, **metadata: str) -> Path:
    save_file(few_tensors(), path, metadata or None)
    return path


def write_ckpt(path: Path) -> Path:
    torch.save({"global_step": 3, "state_dict": few_tensors()}, path)
    return path


def test_a_safetensors_file_with_its_metadata(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", format="pt", other="ü")
    file = read_checkpoint(path)
    assert file.path == path
    assert same_tensors(dict(sorted(file.tensors.items())), dict(sorted(few_tensors().items())))
    assert file.metadata == {"format": "pt", "other": "ü"}


def test_a_safetensors_file_without_metadata(tmp_path: Path) -> None:
    file = read_checkpoint(write_safetensors(tmp_path / "a.safetensors"))
    assert len(file.tensors) == len(few_tensors())
    assert file.metadata == {}
    assert checkpoint_info(file) == CheckpointInfo()


def test_a_lightning_file_is_read_where_lightning_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.ckpt"
    with monkeypatch.context() as patch:
        torch.save(lightning_content(pretend_lightning(patch), few_tensors()), path)
    assert b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n" in path.read_bytes()
    for name in [name for name in sys.modules if name.split(".")[0] in ("pytorch_lightning", "lightning")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("pytorch_lightning", "lightning"):  # importing it is an error
        monkeypatch.setitem(sys.modules, name, None)
    assert same_tensors(read_checkpoint(path).tensors, few_tensors())


@pytest.mark.parametrize("callback", [ModelCheckpoint, EarlyStopping])
def test_a_lightning_file_is_read_where_lightning_is(callback: type, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(lightning_content(callback, few_tensors()), path)
    assert same_tensors(read_checkpoint(path).tensors, few_tensors())


def test_reading_leaves_torchs_own_rules_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(lightning_content(ModelCheckpoint, few_tensors()), path)
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    "beside",
    [
        {"best": np.float64(0.5), "count": np.int64(3), "single": np.float32(1)},
        {"names": [None, True, "x", 1.5, (1, 2), 10**20]},
        {"list": [OrderedDict(a=1)], "size": torch.Size([1, 2]), "type": torch.bfloat16, "where": torch.device("cpu")},
        {"tensor": torch.ones(2), "parameter": torch.nn.Parameter(torch.ones(2))},
    ],
    ids=["numpy scalars", "plain values", "torch's own", "tensors"],
)
def test_other_entries_beside_the_state_dict_are_ignored(beside: dict[str, Any], tmp_path: Path) -> None:
    torch.save({**beside, "state_dict": few_tensors()}, tmp_path / "a.ckpt")
    assert same_tensors(read_checkpoint(tmp_path / "a.ckpt").tensors, few_tensors())


def test_a_state_dict_saved_bare(tmp_path: Path) -> None:
    torch.save(OrderedDict(few_tensors()), tmp_path / "a.pt")
    file = read_checkpoint(tmp_path / "a.pt")
    assert same_tensors(file.tensors, few_tensors())
    assert file.metadata == {}


def test_of_a_bare_state_dict_only_tensors_are_taken(tmp_path: Path) -> None:
    torch.save({**few_tensors(), "step": 3, "name": "x"}, tmp_path / "a.pt")
    assert same_tensors(read_checkpoint(tmp_path / "a.pt").tensors, few_tensors())


def test_a_state_dict_of_parameters(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.nn.Parameter(torch.arange(3.0))}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").tensors["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_every_usual_type_keeps_its_type_and_values(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    tensors, path = {"a": torch.tensor([[0, 1], [1, 1]]).to(dtype)}, tmp_path / f"a.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    assert same_tensors(read_checkpoint(path).tensors, tensors)


def test_tensors_that_share_a_storage_come_apart_right(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    torch.save(
        {"state_dict": {"a": whole[:4], "b": whole[4:].view(2, 4), "c": whole.view(3, 4).T}}, tmp_path / "a.ckpt"
    )
    tensors = read_checkpoint(tmp_path / "a.ckpt").tensors
    assert tensors["b"].tolist() == whole[4:].view(2, 4).tolist()
    assert tensors["c"].tolist() == whole.view(3, 4).T.tolist()


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.ckpt")
    assert len(read_checkpoint(tmp_path / "a.ckpt").tensors) == len(few_tensors())


def test_a_torch_file_under_the_name_of_the_other_kind(tmp_path: Path) -> None:
    """torch itself goes by the name; a refusal has to say so."""
    path = write_ckpt(tmp_path / "a.safetensors")
    try:
        assert same_tensors(read_checkpoint(path).tensors, few_tensors())
    except UserError as error:
        assert str(path) in str(error)
        assert ".ckpt" in str(error)


def read_npz(file: BinaryIO, path: Path) -> tuple[Mapping[str, torch.Tensor], dict[str, str]]:
    """A format of one's own: NumPy's archives."""
    with np.load(file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}, {}


def test_a_format_of_ones_own_is_a_reader_and_a_line_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npz = Format((".npz",), lambda head: head.startswith(b"PK") and b".npy" in head, read_npz)
    monkeypatch.setattr(reading, "FORMATS", (npz, *reading.FORMATS))
    np.savez(tmp_path / "a.npz", **{key: tensor.numpy() for key, tensor in few_tensors().items()})
    assert same_tensors(read_checkpoint(tmp_path / "a.npz").tensors, few_tensors())
    assert same_tensors(read_checkpoint(write_ckpt(tmp_path / "a.ckpt")).tensors, few_tensors())


def rename_unet(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A dialect of one's own: `unet.` for the official prefix."""
    return {key.replace("unet.", keys.PARTS["unet"], 1): tensor for key, tensor in tensors.items()}


def test_a_dialect_of_ones_own_is_a_function_and_its_name_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "DIALECTS", (*keys.DIALECTS, rename_unet))
    short = {key.replace(keys.PARTS["unet"], "unet.", 1): tensor for key, tensor in few_tensors().items()}
    assert short.keys() != few_tensors().keys()
    torch.save(short, tmp_path / "a.ckpt")
    assert same_tensors(read_checkpoint(tmp_path / "a.ckpt").tensors, few_tensors())


def test_a_missing_file(tmp_path: Path) -> None:
    assert "there is no checkpoint" in error_of(tmp_path / "a.ckpt")


def test_a_directory(tmp_path: Path) -> None:
    assert "directory" in error_of(tmp_path)


def test_a_path_through_a_file(tmp_path: Path) -> None:
    error_of(write_ckpt(tmp_path / "a.ckpt") / "b.ckpt")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\n", "neither"),
        (b"\x93NUMPY\x01\0v\0{'descr': '<f4'}", "neither"),
        (b"PK\x03\x04", "damaged or cut off"),
        (b"PK\x05\x06" + bytes(18), "neither"),
        (b"\x80\x02", "damaged or cut off"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "damaged or cut off"),
        (b"\x02\0\0\0\0\0\0\0{", "damaged or cut off"),
        (b"\x02\0\0\0\0\0\0\0{]", "damaged or cut off"),
        (b'\x10\0\0\0\0\0\0\0{"a": \xff\xfe\xff\xff\xff\xff\xff\xff', "damaged or cut off"),
    ],
)
def test_bytes_that_are_not_a_checkpoint_are_refused(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    assert word in error_of(path)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(np.random.default_rng(seed).bytes(4096))
    error_of(path)


@pytest.mark.parametrize("percent", [0, 1, 5, 10, 25, 50, 75, 90, 99])
@pytest.mark.parametrize("write", [write_safetensors, write_ckpt])
def test_a_file_cut_off(write: Any, percent: int, tmp_path: Path) -> None:
    path = write(tmp_path / "whole")
    content = path.read_bytes()
    cut = tmp_path / "model.ckpt"
    cut.write_bytes(content[: len(content) * percent // 100])
    message = error_of(cut)
    assert "damaged or cut off" in message or percent == 0


@pytest.mark.parametrize("write", [write_safetensors, write_ckpt])
def test_a_file_without_its_last_byte(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model.ckpt")
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged or cut off" in error_of(path)


def test_a_zip_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.ckpt", "w") as archive:
        archive.writestr("a.jpg", "x")
    assert "a zip file, but no torch checkpoint" in error_of(tmp_path / "photos.ckpt")


def test_a_zip_file_with_two_pickles(tmp_path: Path) -> None:
    path = write_ckpt(tmp_path / "a.ckpt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/data.pkl", "N.")
    error_of(path)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"state_dict": {}}, {"state_dict": {"a": 1}}, {"a": 1}, "text", torch.ones(3)]
    + [{"state_dict": other} for other in (None, 3, [torch.ones(2)], torch.ones(2))],
)
def test_a_torch_file_without_named_tensors(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    assert "holds no tensors" in error_of(tmp_path / "a.ckpt")


def test_a_safetensors_file_without_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors", {"format": "pt"})
    assert "holds no tensors" in error_of(tmp_path / "a.safetensors")


def test_a_torch_file_of_the_old_kind_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"state_dict": few_tensors()}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    message = error_of(tmp_path / "a.ckpt")
    assert "bare pickle" in message
    assert "safetensors" in message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    torch.save({"state_dict": few_tensors(), "note": b"bytes"}, tmp_path / "a.ckpt", pickle_protocol=protocol)
    assert same_tensors(read_checkpoint(tmp_path / "a.ckpt").tensors, few_tensors())


def damage_index(path: Path, offset: int, value: bytes) -> None:
    """Overwrites a field of the first entry in a zip file's index."""
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, b"\x01\0"),  # flags: encrypted
        (10, b"\x63\0"),  # compression: unknown
        (10, b"\x08\0"),  # compression: deflate, which it isn't
        (16, b"\0\0\0\0"),  # checksum
        (20, b"\xf0\xff\xff\xff"),  # compressed size
        (24, b"\xf0\xff\xff\x7f"),  # size
        (28, b"\xff\xff"),  # length of the name
        (42, b"\xf0\xff\xff\xff"),  # offset of the content
    ],
)
def test_a_damaged_index_of_a_zip_file(offset: int, value: bytes, tmp_path: Path) -> None:
    path = write_ckpt(tmp_path / "a.ckpt")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0].endswith("/data.pkl")
    damage_index(path, offset, value)
    error_of(path)


@pytest.mark.parametrize(
    "pickle",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02N",
        b"\x80\x02(u.",
        b"\x80\x020.",
        b"\x80\x02h\x07.",
        b"\x80\x02Nb.",
        b"\x80\x02}(K\x01u.",
    ],
)
def test_bytes_that_are_not_a_pickle(pickle: bytes, tmp_path: Path) -> None:
    write_ckpt(tmp_path / "good.ckpt")
    replace_pickle(tmp_path / "good.ckpt", lambda _: pickle, tmp_path / "bad.ckpt")
    error_of(tmp_path / "bad.ckpt")


def test_a_torch_file_whose_tensor_is_missing(tmp_path: Path) -> None:
    write_ckpt(tmp_path / "good.ckpt")
    replace_pickle(
        tmp_path / "good.ckpt", lambda pickle: pickle.replace(b"X\x01\0\0\x000", b"X\x01\0\0\x009"), tmp_path / "b"
    )
    assert (tmp_path / "b").stat().st_size > 0
    error_of(tmp_path / "b")


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_ckpt(tmp_path / "a.ckpt")
    path.chmod(0)
    assert "Permission denied" in error_of(path)

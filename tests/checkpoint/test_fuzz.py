"""Any content of a file: it is read, or refused by a `UserError` that names the file."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.errors import UserError
from tests.checkpoint.files import few_tensors, replace_pickle
from tests.checkpoint.mutations import KINDS, campaign

Flips = list[tuple[float, int]]

flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)
"""Where, as a share of the length, and which byte."""


def flipped(content: bytes, where: Flips) -> bytes:
    changed = bytearray(content)
    for share, byte in where:
        changed[int(share * len(content))] = byte
    return bytes(changed)


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        file = read_checkpoint(path)
        for tensor in file.tensors.values():
            tensor.clone()  # what was mapped can be read to its end
        checkpoint_info(file)
    except UserError as error:
        assert str(path) in str(error)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fuzz")
    info = CheckpointInfo(config={"a": [1, 2.5, None]}, class_name="can", step=200)
    save_file(few_tensors(), directory / "good.safetensors", info.to_metadata())
    torch.save({"global_step": 3, "state_dict": few_tensors()}, directory / "good.ckpt")
    return directory


@settings(max_examples=30)
@given(where=flips, cut=st.floats(0, 1))
def test_a_damaged_safetensors_file(directory: Path, where: Flips, cut: float) -> None:
    content = flipped((directory / "good.safetensors").read_bytes(), where)
    read_or_refuse(directory / "bad.safetensors", content[: max(1, int(cut * 1.5 * len(content)))])


@settings(max_examples=30)
@given(where=flips)
def test_a_damaged_header_of_a_safetensors_file(directory: Path, where: Flips) -> None:
    content = (directory / "good.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    read_or_refuse(directory / "bad.safetensors", flipped(content[:end], where) + content[end:])


@settings(max_examples=30)
@given(where=flips, cut=st.floats(0, 1))
def test_a_damaged_torch_file(directory: Path, where: Flips, cut: float) -> None:
    content = flipped((directory / "good.ckpt").read_bytes(), where)
    read_or_refuse(directory / "bad.ckpt", content[: max(1, int(cut * 1.5 * len(content)))])


@settings(max_examples=30)
@given(where=flips)
def test_a_damaged_index_of_a_torch_file(directory: Path, where: Flips) -> None:
    content = (directory / "good.ckpt").read_bytes()
    start = content.index(b"PK\x01\x02")
    read_or_refuse(directory / "bad.ckpt", content[:start] + flipped(content[start:], where))


@settings(max_examples=30)
@given(where=flips)
def test_a_damaged_pickle_in_a_whole_torch_file(directory: Path, where: Flips) -> None:
    replace_pickle(directory / "good.ckpt", lambda pickle: flipped(pickle, where), directory / "bad.ckpt")
    read_or_refuse(directory / "bad.ckpt", (directory / "bad.ckpt").read_bytes())


OPCODES = b"(.012FIJKLMNRSTUVXabcdeghijlopqrstu}]\x80\x81\x85\x86\x87\x88\x89\x8c\x93\x94QP"


@settings(max_examples=40)
@given(code=st.binary(max_size=6) | st.lists(st.sampled_from(OPCODES), max_size=8).map(bytes))
def test_any_pickle_in_a_whole_torch_file(directory: Path, code: bytes) -> None:
    replace_pickle(directory / "good.ckpt", lambda _: b"\x80\x02" + code + b".", directory / "bad.ckpt")
    read_or_refuse(directory / "bad.ckpt", (directory / "bad.ckpt").read_bytes())


@settings(max_examples=30)
@given(
    content=st.binary(max_size=200),
    head=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"(", b"\x10\0\0\0\0\0\0\0{"]),
)
def test_any_bytes(directory: Path, head: bytes, content: bytes) -> None:
    read_or_refuse(directory / "bad.ckpt", head + content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_opened_or_refused_quickly_and_nothing_in_it_is_run(kind: str, tmp_path: Path) -> None:
    """A few of those that a campaign tries."""
    tally = campaign(kind, 12, tmp_path)
    assert tally.opened + tally.refused == 12
    assert tally.refused

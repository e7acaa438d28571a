"""Files from strangers: each is refused within a second by a message that names it, and nothing in it is run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.models import settings_of
from ldm.errors import UserError
from tests.checkpoint import hostile

SECONDS = 2.0
"""Of this process's own time; a second on an idle machine."""


@contextmanager
def quickly() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def refusal(path: Path) -> str:
    with quickly(), pytest.raises(UserError) as error:
        read_checkpoint(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message) < 1000
    assert not (path.parent / hostile.MARKER).exists()
    return message


@pytest.mark.parametrize("name", hostile.REFUSED)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    refusal(hostile.REFUSED[name](tmp_path))


@pytest.mark.parametrize("name", hostile.FOREIGN)
def test_a_file_of_another_kind_is_told(name: str, tmp_path: Path) -> None:
    make, word = hostile.FOREIGN[name]
    assert word in refusal(make(tmp_path))


@pytest.mark.parametrize("name", hostile.SPECIAL)
def test_what_is_no_file_is_told_and_does_not_block(name: str, tmp_path: Path) -> None:
    make, word = hostile.SPECIAL[name]
    if name == "a terminal" and not Path("/dev/tty").exists():
        pytest.skip("there is no terminal")
    assert word in refusal(make(tmp_path))


@pytest.mark.parametrize("name", hostile.UNFIT)
def test_metadata_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    path = hostile.UNFIT[name](tmp_path)
    file = read_checkpoint(path)
    with quickly(), pytest.raises(UserError) as error:
        checkpoint_info(file)
        raise_unless_whole(file, settings_of(file, None)[1].model)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


def test_attributes_of_a_state_dict_hide_nothing(tmp_path: Path) -> None:
    file = read_checkpoint(hostile.attributes_that_shadow(tmp_path))
    assert file.tensors["model.diffusion_model.x"].tolist() == [0, 0, 0, 0]


def test_a_compressed_file_is_told_what_would_be_right(tmp_path: Path) -> None:
    message = refusal(hostile.REFUSED["compressed"](tmp_path))
    assert "data.pkl" in message and "compressed" in message and "save it again with torch.save" in message


def test_a_pickled_model_is_told_what_would_be_right(tmp_path: Path) -> None:
    assert "torch.save(model.state_dict(), ...)" in refusal(hostile.whole_model(tmp_path))


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path: Path) -> None:
    for name in ("caf\udce9.safetensors", "caf\udce9.ckpt"):
        path = tmp_path / name
        made = (
            hostile.good_safetensors(tmp_path)
            if path.suffix == ".safetensors"
            else hostile.attributes_that_shadow(tmp_path)
        )
        made.rename(path)
        assert read_checkpoint(path).tensors

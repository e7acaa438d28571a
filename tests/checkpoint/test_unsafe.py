"""Files that would run code: refused before anything of them is carried out, with the names in them."""

import io
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.unpickling import KNOWN_INERT, refused_names
from ldm.errors import UserError
from tests.checkpoint.files import ATTACKS, few_tensors, lightning_content, replace_pickle, same_tensors


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    return str(error.value)


def appears(marker: Path, seconds: float = 10.0) -> bool:
    """Whether the file is there, at once or soon."""
    end = time.monotonic() + seconds
    while not marker.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return marker.exists()


def leaf(name: str) -> str:
    """The part of a name that is the same in all protocols: protocol 2 gives modules the names of Python 2."""
    return name.rpartition(".")[2]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name_and_not_carried_out(name: str, protocol: int, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    torch.save({"state_dict": few_tensors(), "callbacks": ATTACKS[name](marker)}, path, pickle_protocol=protocol)
    message = refusal(path)
    assert leaf(name) in message
    assert name in message or protocol == 2
    assert "could run code" in message
    assert not marker.exists()

    torch.load(path, weights_only=False)  # the attack is a real one
    assert appears(marker)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_bare_pickle_is_refused_too(protocol: int, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    path.write_bytes(pickle.dumps(ATTACKS["posix.system"](marker), protocol))
    message = refusal(path)
    assert "posix.system" in message or protocol < 2
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert appears(marker)


@pytest.mark.parametrize("zipped", [True, False])
def test_an_attack_that_looks_like_a_tensor_of_the_state_dict(zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    tensors = {**few_tensors(), "model.diffusion_model.x": ATTACKS["builtins.eval"](marker)}
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=zipped)
    assert ("eval" in refusal(path)) == zipped  # an old file is several pickles, and refused at the first
    assert not marker.exists()


@pytest.mark.parametrize(
    "nest",
    [
        lambda attack: {"state_dict": few_tensors(), "a": [{"b": (1, {"c": [attack]})}]},
        lambda attack: {"state_dict": few_tensors(), attack: "a key"},
        lambda attack: {"state_dict": attack},
        lambda attack: attack,
        lambda attack: lightning_content(ModelCheckpoint, few_tensors()) | {"loops": attack},
    ],
    ids=["deep", "key", "state dict", "all", "lightning"],
)
def test_an_attack_is_found_anywhere_in_the_file(nest: Any, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    torch.save(nest(ATTACKS["posix.system"](marker)), path)
    assert "posix.system" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_all_names_are_listed_in_order_and_once(protocol: int, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.ckpt", tmp_path / "marker"
    attacks = [attack(marker) for attack in ATTACKS.values()] * 2
    torch.save({"state_dict": few_tensors(), "x": attacks}, path, pickle_protocol=protocol)
    message = refusal(path)
    for name in ATTACKS:
        assert message.count(leaf(name)) == 1
    if protocol == 4:
        assert "builtins.eval, builtins.exec, posix.system, subprocess.Popen" in message
    assert "OrderedDict" not in message  # harmless names are not
    assert not marker.exists()


# Protocol 4 takes a module and a name from the stack, where they may come from anywhere.
STACKED = {
    "two strings": b"\x8c\x05posix\x8c\x06system\x93",
    "remembered": b"\x8c\x05posix\x94\x8c\x06system\x940" + b"0h\x00h\x01\x93",
    "remembered twice": b"\x8c\x05posix\x94\x94\x8c\x06system\x940" + b"0h\x01h\x02\x93",
    "numbered": b"\x8c\x05posixq\x07\x8c\x06systemq\x0900h\x07h\x09\x93",
    "numbered in long": b"\x8c\x05posixr\0\1\0\0\x8c\x06systemr\1\1\0\0" + b"00j\0\1\0\0j\1\1\0\0\x93",
    "as text": b"Vposix\nVsystem\n\x93",
    "the other way round": b"\x8c\x06system\x94\x8c\x05posix\x9400h\x01h\x00\x93",
    "one of them": b"\x8c\x06system\x94\x30\x8c\x05posixh\x00\x93",
}


@pytest.mark.parametrize("code", STACKED.values(), ids=list(STACKED))
def test_names_from_the_stack_are_read_as_the_unpickler_reads_them(code: bytes) -> None:
    whole = b"\x80\x04" + code + b"."
    assert pickle.loads(whole).__name__ == "system"
    assert refused_names(whole) == ["posix.system"]


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (b"cposix\nsystem\n.", ["posix.system"]),
        (b"(S'ls'\niposix\nsystem\n.", ["posix.system"]),
        (b"cos\npath.join\n.", ["os.path.join"]),
        (b"ccollections\nOrderedDict\n.", []),
        (b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n.", []),
        (b"ctorch._utils\n_rebuild_tensor_v2\nctorch\nFloatStorage\n0.", []),
        (b"cposix\nsystem\n0cnt\nsystem\n0ccollections\nOrderedDict\n.", ["nt.system", "posix.system"]),
        (b"N.", []),
    ],
)
def test_names_of_a_pickle(code: bytes, names: list[str]) -> None:
    assert refused_names(code) == names


@pytest.mark.parametrize("code", [b"", b"N", b"\xff", b"cposix\n", b"\x8c\x09ab", b"\x80", b"<html>"])
def test_what_is_no_pickle_is_an_error(code: bytes) -> None:
    with pytest.raises(ValueError):
        refused_names(code)


DISGUISED = {
    # A harmless name is pushed and dropped again before the harmful one below it is used.
    "dropped strings": b"\x8c\x05posix\x8c\x06system\x8c\x0bcollections\x8c\x0bOrderedDict00\x93",
    # The memo's numbers are given by hand, against the order in which things are remembered.
    "numbers by hand": b"\x8c\x05posixq\x01\x8c\x06systemq\x000" + b"0h\x01h\x00\x93",
    # The strings are of the kind that protocol 0 has.
    "old strings": b"S'posix'\nS'system'\n\x93",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("code", DISGUISED.values(), ids=list(DISGUISED))
def test_a_disguised_name_is_not_called_either(code: bytes, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = f"touch '{marker}'".encode()
    path = write_with(code + b"X" + len(command).to_bytes(4, "little") + command + b"\x85R", tmp_path)
    refusal(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert appears(marker)


def write_with(code: bytes, directory: Path) -> Path:
    """A good file but for a value beside the state dict, which the pickle code `code` makes."""
    torch.save({"state_dict": few_tensors()}, directory / "good.ckpt")
    entry = b"}q\0" + b"X\1\0\0\0x" + code + b"s"
    replace_pickle(directory / "good.ckpt", lambda good: good.replace(b"}q\0", entry, 1), directory / "with.ckpt")
    return directory / "with.ckpt"


@pytest.mark.parametrize("name", sorted(set(KNOWN_INERT) - {"_codecs.encode"}))  # torch itself has that one
@pytest.mark.parametrize(
    "use",
    [b"", b"X\1\0\0\0aK\1\x86R", b")\x81", b")R}X\1\0\0\0aK\1sb"],
    ids=["named", "called", "made", "with a state"],
)
def test_harmless_names_of_frameworks_are_ignored(name: str, use: bytes, tmp_path: Path) -> None:
    """In each way in which a pickle uses a class."""
    module, _, leaf = name.rpartition(".")
    path = write_with(f"c{module}\n{leaf}\n".encode() + use, tmp_path)
    assert same_tensors(read_checkpoint(path).tensors, few_tensors())


def test_a_harmless_class_cannot_become_a_tensor(tmp_path: Path) -> None:
    """A harmless class in a tensor's place is passed over; the rest is read."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {**few_tensors(), "x": ModelCheckpoint}}, buffer)
    (tmp_path / "a.ckpt").write_bytes(buffer.getvalue())
    assert same_tensors(read_checkpoint(tmp_path / "a.ckpt").tensors, few_tensors())

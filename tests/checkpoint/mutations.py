"""Good files with random changes, opened as commands open them: how a campaign tries thousands of them.

`campaign(kind, count, directory, seed)` is the way in: it makes `count` changed files of one of the `KINDS` in
`directory`, opens each, and raises `AssertionError` with the change's number if anything but a `UserError` that names
the file comes out, if an attack in it was carried out, or if it took longer than `SECONDS`. Change `i` of a seed is
always the same, so that `campaign(kind, 1, directory, seed, first=i)` repeats one of them.
"""

import io
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from ldm.checkpoint.loading import checkpoint_info, raise_unless_whole
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.errors import UserError
from ldm.runtime.models import settings_of
from ldm.toyworld.judge.file import judge_writer, load_judge
from tests.checkpoint import hostile, wrong_values
from tests.checkpoint.files import ATTACKS, few_tensors, replace_pickle
from tests.judges import build_tiny_judge
from tests.tiny import TINY_YAML, write_tiny_checkpoint

SECONDS = 5.0
"""Of this process's own time for one file."""

MAGIC = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"{",
    b"}",
    b'"',
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"\xff\xff\xff\xff",
    b"(",
    b".",
)
OPCODES = b"(.012FIJKLMNRSTUVXabcdeghijlopqrstu}]\x80\x81\x85\x86\x87\x88\x89\x8c\x8e\x93\x94\x95QP"


@dataclass
class Tally:
    """What became of the files, and the longest time that one took."""

    opened: int = 0
    refused: int = 0
    slowest: float = 0.0


@dataclass(frozen=True)
class Kind:
    """A kind of file: one that is good, how it is changed, and what a command does with it."""

    write: Callable[[Path], Path]
    change: Callable[[Path, random.Random], None]
    use: Callable[[Path], object]


def campaign(kind: str, count: int, directory: Path, seed: int = 0, first: int = 0) -> Tally:
    """Tries changed files as the module's text says; returns what became of them."""
    one, tally = KINDS[kind], Tally()
    path = one.write(directory)
    good = path.read_bytes()
    for index in range(first, first + count):
        path.unlink()  # a file that is mapped is not written over
        path.write_bytes(good)
        one.change(path, random.Random(f"{kind}-{seed}-{index}"))
        start = time.process_time()
        try:
            one.use(path)
            tally.opened += 1
        except UserError as error:
            assert str(path) in str(error), f"{kind} {seed}-{index}: the message names no file: {error}"
            assert len(str(error)) < 2000, f"{kind} {seed}-{index}: a long message"
            tally.refused += 1
        except Exception as error:
            raise AssertionError(f"{kind} {seed}-{index}: {type(error).__name__}: {error}") from error
        taken = time.process_time() - start
        assert taken < SECONDS, f"{kind} {seed}-{index}: {taken:.1f} s"
        assert not (directory / hostile.MARKER).exists(), f"{kind} {seed}-{index}: an attack was carried out"
        tally.slowest = max(tally.slowest, taken)
    return tally


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Bytes with one to four changes: flipped, replaced, cut out, put in twice, cut off."""
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(content) + 1), chance.choice((1, 1, 2, 4, 8, 64))
        piece = content[at : at + length]
        match chance.randrange(6):
            case 0:
                new = bytes(byte ^ 1 << chance.randrange(8) for byte in piece)
            case 1:
                new = chance.choice(MAGIC)
            case 2:
                new = chance.randbytes(length)
            case 3:
                new = b""
            case 4:
                new = piece * 2
            case _:
                new = bytes(length)
        content = content[:at] + new + content[at + length :]
        if chance.random() < 0.05:
            content = content[: chance.randrange(len(content) + 1)]
    return content or b"\0"


def mutate_pickle(content: bytes, chance: random.Random) -> bytes:
    """A pickle with changes of its bytes, or with steps put in and exchanged."""
    if chance.random() < 0.5:
        return mutate(content, chance)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(2, len(content))
        content = content[:at] + bytes([chance.choice(OPCODES)]) + content[at + chance.randrange(2) :]
    return content


def with_wrong_value(values: Any, chance: random.Random) -> Any:
    """Nested values with a wrong one in a random place."""
    path = chance.choice(list(wrong_values.paths(values)))
    return wrong_values.with_value(values, path, chance.choice(wrong_values.WRONG))


def _whole(path: Path, chance: random.Random) -> None:
    path.write_bytes(mutate(path.read_bytes(), chance))


def _header(path: Path, chance: random.Random) -> None:
    """The header of a safetensors file, with the right size of its own in most cases."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = mutate(content[8:end], chance)
    size = len(header) if chance.random() < 0.8 else chance.randrange(2**20)
    path.write_bytes(size.to_bytes(8, "little") + header + content[end:])


def _metadata(path: Path, chance: random.Random) -> None:
    """The metadata's values: a config with a wrong value, or changed letters of JSON."""
    content = path.read_bytes()
    metadata = read_checkpoint(path).metadata
    name = chance.choice([key for key in metadata if key.startswith("ldm.")])
    if chance.random() < 0.7 and name in ("ldm.config", "ldm.judge"):
        metadata[name] = json.dumps(with_wrong_value(json.loads(metadata[name]), chance))
    else:
        metadata[name] = mutate(metadata[name].encode(), chance).decode(errors="replace")
    path.unlink()
    path.write_bytes(save(load(content), metadata))


def _pickle(path: Path, chance: random.Random) -> None:
    """The pickle of a torch file, with right checksums."""
    replace_pickle(path, lambda good: mutate_pickle(good, chance), changed := path.with_suffix(".changed"))
    changed.replace(path)


def _use_checkpoint(path: Path) -> None:
    file = read_checkpoint(path)
    for tensor in file.tensors.values():
        tensor.clone()  # what was mapped can be read to its end
    checkpoint_info(file)


def _use_model(path: Path) -> None:
    file = read_checkpoint(path)
    raise_unless_whole(file, settings_of(file, None)[1].model)


def _few_safetensors(directory: Path) -> Path:
    info = CheckpointInfo(config={"a": [1, 2.5, None]}, class_name="can", step=200)
    (directory / "a.safetensors").write_bytes(save(few_tensors(), info.to_metadata()))
    return directory / "a.safetensors"


def _torch_file(directory: Path) -> Path:
    """A torch file with an attack in it."""
    buffer = io.BytesIO()
    attack = ATTACKS["posix.system"](directory / hostile.MARKER)
    torch.save({"global_step": 3, "state_dict": few_tensors(), "x": attack}, buffer)
    (directory / "a.ckpt").write_bytes(buffer.getvalue())
    return directory / "a.ckpt"


def _good_torch_file(directory: Path) -> Path:
    torch.save({"global_step": 3, "state_dict": few_tensors()}, directory / "a.ckpt")
    return directory / "a.ckpt"


def _judge(directory: Path) -> Path:
    judge_writer(directory / "judge.safetensors", build_tiny_judge(), "abc")()
    return directory / "judge.safetensors"


def _model(directory: Path) -> Path:
    return write_tiny_checkpoint(directory, config=TINY_YAML)


KINDS: dict[str, Kind] = {
    "safetensors": Kind(_few_safetensors, _whole, _use_checkpoint),
    "safetensors header": Kind(_few_safetensors, _header, _use_checkpoint),
    "ckpt": Kind(_good_torch_file, _whole, _use_checkpoint),
    "ckpt pickle": Kind(_good_torch_file, _pickle, _use_checkpoint),
    "ckpt attack": Kind(_torch_file, _whole, _use_checkpoint),
    "ckpt attack pickle": Kind(_torch_file, _pickle, _use_checkpoint),
    "metadata": Kind(_model, _metadata, _use_model),
    "judge": Kind(_judge, _whole, load_judge),
    "judge header": Kind(_judge, _header, load_judge),
    "judge metadata": Kind(_judge, _metadata, load_judge),
}

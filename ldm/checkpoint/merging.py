"""An adapter (LoRA and the like) merged into a checkpoint: the result is a `CheckpointFile` like any other.

The digests of the parts that an adapter changes include the adapter's: what loads, samples, scores or compares
checkpoints needs to know nothing of adapters.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import checkpoint_info, part_digests
from ldm.checkpoint.reading import CheckpointFile
from ldm.errors import UserError


class Adapter(Protocol):
    """A change of some weights."""

    @property
    def path(self) -> Path:
        """The file it was read from, for messages."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file, or of whatever determines the change."""

    @property
    def keys(self) -> Collection[str]:
        """Official names of the weights that it changes."""

    def fits(self, key: str, weight: Tensor) -> bool:
        """Whether it can change a weight of this shape; reads no numbers of the weight."""

    def delta(self, key: str, weight: Tensor) -> Tensor:
        """What is added to a float32 `weight` at strength 1, in its shape."""


def merged(file: CheckpointFile, adapter: Adapter, strength: float = 1.0) -> CheckpointFile:
    """The checkpoint with weights w + strength * delta(w), computed in float32 whenever one is looked up.

    Several adapters are merged one after the other. Raises `UserError` if the checkpoint lacks a weight that the
    adapter changes, or has it in another shape.
    """
    for key in adapter.keys:
        if key not in file.index:
            raise UserError(f"{adapter.path} does not fit {file.path}, which has no {key}")
        if not adapter.fits(key, weight := file.index[key]):
            raise UserError(f"{adapter.path} does not fit {file.path}, in which {key} has shape {tuple(weight.shape)}")
    info = checkpoint_info(file)
    digests = {
        part: _digest(digest, adapter, strength) if any(key.startswith(PARTS[part]) for key in adapter.keys) else digest
        for part, digest in part_digests(file.path, info).items()
    }
    metadata = {**file.metadata, **dataclasses.replace(info, parts=digests).to_metadata()}
    tensors = _MergedTensors(file.tensors, adapter, strength)
    return _MergedFile(file.path, tensors, metadata, base=file, adapter=adapter, strength=strength)


def _digest(digest: str, adapter: Adapter, strength: float) -> str:
    return hashlib.sha256(f"{digest} + {float(strength)!r} * {adapter.digest}".encode()).hexdigest()


class _MergedTensors(Mapping[str, Tensor]):
    """No merged weight is kept: memory holds one at a time, unless the caller keeps more."""

    def __init__(self, tensors: Mapping[str, Tensor], adapter: Adapter, strength: float) -> None:
        self.tensors = tensors
        self.adapter = adapter
        self.strength = strength

    def __getitem__(self, key: str) -> Tensor:
        stored = self.tensors[key]
        if key not in self.adapter.keys:
            return stored
        weight = stored.float()
        return (weight + self.strength * self.adapter.delta(key, weight)).to(stored.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True, kw_only=True)
class _MergedFile(CheckpointFile):
    base: CheckpointFile
    adapter: Adapter
    strength: float

    @property
    def index(self) -> Mapping[str, Tensor]:
        return self.base.index

    def opener(self) -> Callable[[], CheckpointFile]:
        """Reads the base file again, and merges the same adapter into it."""
        open_base, adapter, strength = self.base.opener(), self.adapter, self.strength
        return lambda: merged(open_base(), adapter, strength)

    def in_memory(self, prefixes: tuple[str, ...]) -> CheckpointFile:
        """The tensors of the base file are in memory; a merged one is still computed when it is looked up."""
        base = self.base.in_memory(prefixes)
        return dataclasses.replace(self, tensors=_MergedTensors(base.tensors, self.adapter, self.strength), base=base)

"""Another autoencoder (VAE) in a checkpoint, from a file or a directory: the result is again a `CheckpointFile`.

The digest of the autoencoder is the other file's, so that comparing, sampling and resuming need to know nothing of it.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ldm.checkpoint.diffusers_config import described_autoencoder
from ldm.checkpoint.diffusers_directory import weight_files
from ldm.checkpoint.diffusers_names import diffusers_names, to_official
from ldm.checkpoint.keys import PARTS, compare_keys, foreign_kind
from ldm.checkpoint.loading import checkpoint_info, part_digests
from ldm.checkpoint.reading import CheckpointFile, read_content
from ldm.checkpoint.saving import hash_file
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from ldm.errors import UserError
from ldm.user_files import is_diffusers_directory

PREFIX = PARTS["autoencoder"]
_ALONE = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\..+")


@dataclass(frozen=True)
class Autoencoder:
    """Where an autoencoder's weights are. It holds no tensors."""

    path: Path
    files: tuple[Path, ...]
    digest: str
    """SHA-256 of the files."""
    scale_factor: float | None
    """Of its `config.json`; a file alone doesn't say it."""

    def read(self, config: LatentDiffusionConfig) -> dict[str, Tensor]:
        """Its weights by official name. Raises `UserError` if they are not those of such a model's autoencoder."""
        if self.scale_factor is not None and not math.isclose(self.scale_factor, config.scale_factor, rel_tol=1e-4):
            raise UserError(
                f"{self.path} is another model's autoencoder: its latents are scaled by {self.scale_factor}, the "
                f"model's by {config.scale_factor}"
            )
        tensors: dict[str, Tensor] = {}
        for file in self.files:
            tensors |= read_content(file)[0]
        found = self._official(tensors, config)
        needed = {key: shape for key, shape in shapes_of(config).items() if key.startswith(PREFIX)}
        compare_keys(needed, {key: tensor.shape for key, tensor in found.items()}).raise_if_any(self.path)
        return {key: found[key] for key in needed}

    def _official(self, tensors: Mapping[str, Tensor], config: LatentDiffusionConfig) -> dict[str, Tensor]:
        if whole := {key: tensor for key, tensor in tensors.items() if key.startswith(PREFIX)}:
            return whole
        alone = {key: tensor for key, tensor in tensors.items() if _ALONE.fullmatch(key)}
        if not alone:
            kind = foreign_kind({key: tensor.shape for key, tensor in tensors.items()})
            raise UserError(f"{self.path} holds no autoencoder (VAE){f'; it looks like {kind}' if kind else ''}")
        if any(".down_blocks." in key for key in alone):
            names = {key: name for key, name in diffusers_names(config).items() if key.startswith(PREFIX)}
            return to_official({f"vae/{key}": tensor for key, tensor in alone.items()}, names)
        return {PREFIX + key: tensor for key, tensor in alone.items()}


def find_autoencoder(path: Path) -> Autoencoder:
    """The autoencoder of a file, of a directory with diffusers' `config.json`, or of a whole diffusers directory.

    The file may be a whole checkpoint. Raises `UserError` if there is none.
    """
    if not path.is_dir():
        return Autoencoder(path, (path,), _digest([path]), None)
    folder = path / "vae" if is_diffusers_directory(path) else path
    files = weight_files(folder)
    if not files or not (config := folder / "config.json").is_file():
        raise UserError(
            f"{path} holds no autoencoder: --vae takes a file, or a directory with config.json and "
            "diffusion_pytorch_model.safetensors"
        )
    return Autoencoder(path, tuple(files), _digest(files), described_autoencoder(config)["scale_factor"])


def _digest(files: list[Path]) -> str:
    try:
        return hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()
    except OSError as error:
        raise UserError(f"could not read {files[0]}: {error.strerror or error}") from error


def with_autoencoder(
    file: CheckpointFile, autoencoder: Autoencoder | None, config: LatentDiffusionConfig
) -> CheckpointFile:
    """The checkpoint with the weights of another autoencoder; the same checkpoint for None.

    Raises `UserError` if the autoencoder doesn't fit the model.
    """
    if autoencoder is None:
        return file
    info = checkpoint_info(file)
    digests = {**part_digests(file.path, info), "autoencoder": autoencoder.digest}
    metadata = {**file.metadata, **dataclasses.replace(info, parts=digests).to_metadata()}
    weights = autoencoder.read(config)
    return _WithAutoencoder(
        file.path,
        _Layered(weights, file.tensors),
        metadata,
        base=file,
        weights=weights,
        autoencoder=autoencoder,
        config=config,
    )


class _Layered(Mapping[str, Tensor]):
    """Some tensors in place of those with the same names; the others stay as they are, computed or not."""

    def __init__(self, above: Mapping[str, Tensor], below: Mapping[str, Tensor]) -> None:
        self.above = above
        self.below = below

    def __getitem__(self, key: str) -> Tensor:
        return self.above[key] if key in self.above else self.below[key]

    def __iter__(self) -> Iterator[str]:
        yield from self.below
        yield from (key for key in self.above if key not in self.below)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, kw_only=True)
class _WithAutoencoder(CheckpointFile):
    base: CheckpointFile
    weights: Mapping[str, Tensor]
    autoencoder: Autoencoder
    config: LatentDiffusionConfig

    @property
    def index(self) -> Mapping[str, Tensor]:
        return _Layered(self.weights, self.base.index)

    def opener(self) -> Callable[[], CheckpointFile]:
        """Reads both files again."""
        open_base, autoencoder, config = self.base.opener(), self.autoencoder, self.config
        return lambda: with_autoencoder(open_base(), autoencoder, config)

    def in_memory(self, prefixes: tuple[str, ...]) -> CheckpointFile:
        """The stored tensors of both files whose names have one of the prefixes, in memory."""
        others = tuple(prefix for prefix in prefixes if prefix != PREFIX)
        base = self.base.in_memory(others)
        weights = CheckpointFile(self.autoencoder.path, self.weights).in_memory(prefixes).tensors
        return dataclasses.replace(self, tensors=_Layered(weights, base.tensors), base=base, weights=weights)

"""The checkpoints to sample: those at `--ckpt-path` that hold a whole model of one shape."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ldm.checkpoint.discovery import find_checkpoints
from ldm.checkpoint.loading import checkpoint_info, part_digests, raise_unless_whole
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.replacing import Autoencoder, find_autoencoder, with_autoencoder
from ldm.errors import UserError, named_in_errors
from ldm.runtime.models import Settings, read_tokenizer, settings_of
from ldm.runtime.tokenizers import find_tokenizer
from ldm.user_files import is_diffusers_directory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A whole model: its file, its settings and tokenizer, and the digests by which its weights are known.

    It holds no tensors: a mapped file that is overwritten during a long call would end the process.
    """

    path: Path
    info: CheckpointInfo
    settings: Settings
    tokenizer: Path
    tokenizer_digest: str
    digests: Mapping[str, str]
    """SHA-256 of each part's weights, as `part_digests` gives them: equal digests mean equal images."""
    open: Callable[[], CheckpointFile]
    """Reads the file, and merges the adapters with which it was found."""
    vae: str = ""
    """The name of the file or directory of its autoencoder, if that isn't its own."""
    is_base: bool = False
    """Whether it is the base model of a comparison."""

    def read(self) -> CheckpointFile:
        """The file, mapped. Raises `UserError` if it can't be read or another one has replaced it."""
        file = self.open()
        if part_digests(self.path, checkpoint_info(file)) != self.digests:
            raise UserError("another checkpoint has replaced it since this call began")
        return file


def checkpoints_to_sample(path: Path, config: Path | None, vae: Path | None = None) -> list[Checkpoint]:
    """The checkpoint at `path`, or those below a directory, in the order of runs and steps.

    Of a directory, files that aren't whole models, or of another shape than most, are left out with a warning.
    Raises `UserError` if none is left. `config`: the YAML of `--config`. `vae`: the autoencoder of `--vae`.
    """
    known: set[object] = set()
    autoencoder = find_autoencoder(vae) if vae else None
    if not path.is_dir() or is_diffusers_directory(path):
        file = read_checkpoint(path)
        with named_in_errors(path):
            return [checkpoint_of(file, config, known, autoencoder)]
    found, skipped = find_checkpoints(path, lambda file: checkpoint_of(file, config, known, autoencoder))
    left_out = [(one.path, one.reason) for one in skipped]
    if found:
        (shape, _), *_ = Counter(one.settings.model for one in found).most_common(1)
        others = [one.path for one in found if one.settings.model != shape]
        left_out += [(one, "a model of another shape than most of the others") for one in others]
        found = [one for one in found if one.settings.model == shape]
    for one, reason in left_out:
        log.warning("left out %s: %s", one, reason)
    if not found:
        raise UserError(f"there is no checkpoint below {path} that can be used; dreambooth.py writes some")
    return found


def checkpoint_of(
    file: CheckpointFile, config: Path | None, known: set[object], autoencoder: Autoencoder | None = None
) -> Checkpoint:
    """A file's checkpoint. Raises `UserError` if it is no whole model. `known`: contents that were checked."""
    _, settings = settings_of(file, config)
    file = with_autoencoder(file, autoencoder, settings.model)
    info = checkpoint_info(file)
    content = (settings.model, frozenset((key, tensor.shape) for key, tensor in file.index.items()))
    if content not in known:
        raise_unless_whole(file, settings.model)
        known.add(content)
    tokenizer = find_tokenizer(file.path, settings.tokenizer, info.tokenizer)
    digest = read_tokenizer(tokenizer, settings).digest
    parts, vae = part_digests(file.path, info), autoencoder.path.name if autoencoder else ""
    return Checkpoint(file.path, info, settings, tokenizer, digest, parts, file.opener(), vae)

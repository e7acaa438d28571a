"""The checkpoints to sample: those at `--ckpt-path`: whole models of one shape, LoRA files and embeddings of one."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ldm.checkpoint.discovery import find_checkpoints
from ldm.checkpoint.learned_words import Embedding
from ldm.checkpoint.loading import checkpoint_info, part_digests, raise_unless_whole
from ldm.checkpoint.lora import is_lora
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.commands.sampling.adapters import (
    Changes,
    LoraFile,
    adapter_info,
    changes_by,
    find_base,
    needs_base,
    read_changed,
    with_yaml_of,
)
from ldm.commands.sampling.records import RunRecords
from ldm.errors import UserError, named_in_errors
from ldm.runtime.models import Settings, settings_of, tokenizer_knowing
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
    """Reads the file, with the changes with which it was found."""
    vae: str = ""
    """The name of the file or directory of its autoencoder, if that isn't its own."""
    is_base: bool = False
    """Whether it is the base model of a comparison."""
    base_file: Path | None = None
    """The whole model that it changes, if `path` is a LoRA file or an embedding."""
    adapter: LoraFile | None = None
    """That LoRA file."""
    embeddings: tuple[Embedding, ...] = ()
    """The words that its text encoder gets; if `path` is an embedding, that is the first."""

    def read(self) -> CheckpointFile:
        """The file, mapped. Raises `UserError` if it can't be read or another one has replaced it."""
        file = self.open()
        if part_digests(self.path, checkpoint_info(file)) != self.digests:
            raise UserError("another checkpoint has replaced it since this call began")
        return file


def checkpoints_to_sample(
    path: Path, config: Path | None, changes: Changes = Changes(), base: Path | None = None, subject: str = ""
) -> list[Checkpoint]:
    """The checkpoint at `path`, or those below a directory, in the order of runs and steps.

    Of a directory, files that are none of these, or of another shape than most, are left out with a warning. Raises
    `UserError` if none is left. `config`: the YAML of `--config`. `changes`: made in each of them.
    `base`: the whole model that LoRA files and embeddings at `path` change; by default the one that they name.
    `subject`: the class name of those that name none.
    """
    reader = _Reader(config, changes, base, subject)
    if not path.is_dir() or is_diffusers_directory(path):
        file = read_checkpoint(path)
        with named_in_errors(path):
            return [reader.checkpoint(file)]
    found, skipped = find_checkpoints(path, reader.checkpoint)
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


class _Reader:
    """Makes checkpoints of files, all with the same options."""

    def __init__(self, config: Path | None, changes: Changes, base: Path | None, subject: str) -> None:
        self.config, self.changes, self.base, self.subject = config, changes, base, subject
        self.known: set[object] = set()
        self.records = RunRecords()

    def checkpoint(self, file: CheckpointFile) -> Checkpoint:
        """A whole model, or a LoRA file or an embedding with its base model, each with the call's changes."""
        if not needs_base(file):
            one = checkpoint_of(file, self.config, self.known, self.changes)
            return replace(one, info=self._named(one.info))
        base = find_base(file, self.base, self.records)
        whole = with_yaml_of(file, read_checkpoint(base))
        changes = changes_by(file, self.changes)
        one = checkpoint_of(whole, self.config, self.known, changes)
        info = self._named(adapter_info(file, base))
        adapter = changes.loras[0] if is_lora(file) else None
        return replace(one, path=file.path, info=info, base_file=base, adapter=adapter)

    def _named(self, info: CheckpointInfo) -> CheckpointInfo:
        return info if info.class_name else replace(info, class_name=self.subject)


def checkpoint_of(
    file: CheckpointFile, config: Path | None, known: set[object], changes: Changes = Changes()
) -> Checkpoint:
    """A file's checkpoint. Raises `UserError` if it is no whole model. `known`: contents that were checked."""
    _, settings = settings_of(file, config)
    opener = partial(read_changed, file.opener(), changes, settings.model)
    info = checkpoint_info(file)  # the digests in it are those of the file itself, by which it is found again
    file = changes.applied_to(file, settings.model)
    content = (settings.model, frozenset((key, tensor.shape) for key, tensor in file.index.items()))
    if content not in known:
        raise_unless_whole(file, settings.model)
        known.add(content)
    tokenizer = find_tokenizer(file.path, settings.tokenizer, info.tokenizer)
    digest = tokenizer_knowing(tokenizer, settings, file.embeddings).digest
    parts = part_digests(file.path, checkpoint_info(file))
    return Checkpoint(
        file.path, info, settings, tokenizer, digest, parts, opener, changes.vae, embeddings=file.embeddings
    )

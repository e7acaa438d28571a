"""LoRA files and embeddings: those of `--lora` and `--embedding`, which change every checkpoint, and those that are
sampled as checkpoints themselves.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ldm.checkpoint.embedding import is_embedding, read_embedding, with_embeddings
from ldm.checkpoint.learned_words import Embedding, from_text
from ldm.checkpoint.loading import checkpoint_info
from ldm.checkpoint.lora import data_hash, is_lora, read_lora
from ldm.checkpoint.merging import merged
from ldm.checkpoint.metadata import PREFIX, CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.replacing import Autoencoder, find_autoencoder, with_autoencoder
from ldm.commands.elsewhere import known_weights, sha256_of
from ldm.commands.options.places import split_embedding, split_lora
from ldm.commands.sampling.records import RunRecords
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError
from ldm.prompts import TOKEN
from ldm.user_files import is_checkpoint, resolved

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file and its weight."""

    path: Path
    weight: float = 1.0
    short_hash: str = ""
    """By which other programs find the file again; empty for files that have none, and before `hashed`."""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.weight:g}"

    @property
    def tag(self) -> str:
        """What other programs write into a prompt."""
        return f"<lora:{self.path.stem}:{self.weight:g}>"

    def hashed(self) -> "LoraFile":
        """The same with its hash: the file may be gone when the images are written."""
        try:
            return replace(self, short_hash=data_hash(self.path)[:12])
        except (OSError, UserError):  # it is named when its weights are read
            return self


def loras_of(options: argparse.Namespace) -> tuple[LoraFile, ...]:
    """The files of `--lora`."""
    return tuple(LoraFile(*split_lora(text)) for text in getattr(options, "lora", None) or ())


def recorded_loras(loras: Sequence[LoraFile]) -> list[str] | None:
    """The same as a run's record has them."""
    return [f"{resolved(one.path)}:{one.weight!r}" for one in loras] or None


def embeddings_of(options: argparse.Namespace) -> list[tuple[Path, str]]:
    """The files of `--embedding`, each with its word, which is empty if it isn't given."""
    return [split_embedding(text) for text in getattr(options, "embedding", None) or ()]


def recorded_embeddings(embeddings: Sequence[tuple[Path, str]]) -> list[str] | None:
    """The same as a run's record has them."""
    return [f"{resolved(path)}{token and f':{token}'}" for path, token in embeddings] or None


@dataclass(frozen=True)
class Changes:
    """What a call changes in every checkpoint: another autoencoder, then LoRA files merged, and further words.

    Of tensors it holds only the words' vectors.
    """

    autoencoder: Autoencoder | None = None
    loras: tuple[LoraFile, ...] = ()
    embeddings: tuple[Embedding, ...] = ()

    @property
    def vae(self) -> str:
        """The name of the autoencoder's file or directory; empty if it is the checkpoint's own."""
        return self.autoencoder.path.name if self.autoencoder else ""

    def applied_to(self, file: CheckpointFile, model: LatentDiffusionConfig) -> CheckpointFile:
        """A whole model with these changes. Raises `UserError` for one that doesn't fit."""
        file = with_autoencoder(file, self.autoencoder, model)
        for one in self.loras:
            file = merged(file, read_lora(read_checkpoint(one.path), file), one.weight)
        return with_embeddings(file, self.embeddings, model)


def changes_of(options: argparse.Namespace) -> Changes:
    """The changes of `--vae`, `--lora` and `--embedding`, with the words that LoRA files were trained with."""
    vae, loras = getattr(options, "vae", None), loras_of(options)
    words = [read_embedding(read_checkpoint(path), token) for path, token in embeddings_of(options)]
    carried = [word for one in loras for word in _words_of(read_checkpoint(one.path))]
    known = {word.digest for word in words}
    words += {word.digest: word for word in carried if word.digest not in known}.values()
    return Changes(find_autoencoder(vae) if vae else None, tuple(one.hashed() for one in loras), tuple(words))


def _words_of(file: CheckpointFile) -> tuple[Embedding, ...]:
    """The words that a file carries in its metadata."""
    return from_text(checkpoint_info(file).words, file.path)


def needs_base(file: CheckpointFile) -> bool:
    """Whether a file only changes a model: a LoRA or an embedding."""
    return is_lora(file) or is_embedding(file)


def changes_by(file: CheckpointFile, changes: Changes) -> Changes:
    """The changes of a call with that of a LoRA file or an embedding which is sampled as a checkpoint.

    An embedding stands for the subject's word then, so that checkpoints of all kinds can be compared with one prompt.
    """
    if is_embedding(file):
        return replace(changes, embeddings=(read_embedding(file, TOKEN), *changes.embeddings))
    loras = (LoraFile(file.path).hashed(), *changes.loras)
    return replace(changes, loras=loras, embeddings=(*_words_of(file), *changes.embeddings))


def read_changed(read: Callable[[], CheckpointFile], changes: Changes, model: LatentDiffusionConfig) -> CheckpointFile:
    """Reads a whole model of this shape and everything that changes it; nothing of them stays in memory before."""
    return changes.applied_to(read(), model)


def with_yaml_of(file: CheckpointFile, base: CheckpointFile) -> CheckpointFile:
    """The base model of a LoRA file or an embedding, with the YAML of its training if the base model carries none."""
    own = checkpoint_info(file).config
    if not own or checkpoint_info(base).config:
        return base
    return replace(base, metadata={**base.metadata, f"{PREFIX}config": json.dumps(own)})


def adapter_info(file: CheckpointFile, base: Path) -> CheckpointInfo:
    """What a LoRA file or an embedding says of itself, with the base model that is used."""
    info = checkpoint_info(file)
    steps = file.metadata.get("ss_steps", "")
    step = info.step or (int(steps) if steps.isdecimal() and len(steps) < 10 else 0)
    return replace(info, step=step, base=base.name, base_sha256=sha256_of(base))


def find_base(file: CheckpointFile, given: Path | None, records: RunRecords) -> Path:
    """The base model of a LoRA file or an embedding: that of `--base`, else the one that its metadata name by SHA-256.

    Raises `UserError` if it names none, or that isn't found.
    """
    if given is not None:
        return given
    kind = "an embedding" if is_embedding(file) else "a LoRA"
    info = checkpoint_info(file)
    sha256 = info.base_sha256 or file.metadata.get("ss_new_sd_model_hash", "")
    name = Path(info.base or file.metadata.get("ss_sd_model_name", "")).name
    recorded = records.places(file.path, "ckpt_path")
    beside = [directory / name for directory in (file.path.parent, file.path.parent.parent)] if name else []
    tried = []
    for path in [*recorded, *beside, *(known_weights(name) if name else [])] if sha256 else []:
        if is_checkpoint(path) and path not in tried:
            tried.append(path)
            if sha256_of(path) == sha256:
                return path
    if not sha256:
        raise UserError(f"{file.path} is {kind} that doesn't name its base model: --base PATH gives it")
    looked_at = f" (looked at {', '.join(map(str, tried))})" if tried else ""
    raise UserError(
        f"{file.path} is {kind}, and its base model {name or 'file'} with the SHA-256 {sha256[:12]}... was not "
        f"found{looked_at}: --base PATH gives it"
    )

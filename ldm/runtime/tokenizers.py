"""Where a checkpoint's tokenizer is: beside it, in the repository, or the same files in another place."""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ldm.errors import UserError
from ldm.files import ROOT
from ldm.nn.tokenizer import PromptTokenizer, copy_tokenizer, load_tokenizer, tokenizer_digest

log = logging.getLogger(__name__)

NAME = "tokenizer"
"""Name of the folder beside a checkpoint."""
ASSETS = ROOT / "ldm" / "assets"
ELSEWHERE = (ASSETS / "tokenizer", ASSETS / "clip-tokenizer", ROOT / "weights" / "sd-v1" / NAME)
"""Directories searched for a tokenizer with a known SHA-256."""


def is_confined(path: str) -> bool:
    """Whether a path from a file stays inside the repository, also after following symbolic links."""
    named = Path(path)
    try:
        (ROOT / named).exists()  # raises for a name that is too long
        inside = (ROOT / named).resolve().is_relative_to(ROOT.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a cycle of links
        return False
    return bool(path) and not named.is_absolute() and ".." not in named.parts and inside


def find_tokenizer(checkpoint: Path, named: str, digest: str = "") -> Path:
    """The directory of a checkpoint's tokenizer: `tokenizer/` beside it, else `named` in the repository.

    A diffusers directory has it inside.

    With a `digest`, the SHA-256 in the checkpoint, the tokenizer with this digest, from another place if necessary.
    Raises `UserError` if it is not found. Without a digest, files may be missing.
    """
    beside = tokenizer_beside(checkpoint)
    own = beside if beside.is_dir() else ROOT / named if named else None
    if digest:
        found = with_digest([*([own] if own else []), *ELSEWHERE], digest)
        if found is None:
            raise UserError(
                f"{own or beside} does not hold the tokenizer that {checkpoint} was trained with, whose SHA-256 is "
                f"{digest}: its files are missing, damaged or another model's. Copy the base model's tokenizer there"
            )
        if own is not None and found != own and own.is_dir():
            _warn_damaged(own, found)
        return found
    if own is None:
        raise UserError(
            f"{checkpoint}: its metadata name a tokenizer outside of this repository, which is not read. Put "
            f"vocab.json and merges.txt into {beside}, or name the tokenizer in a YAML of your own (--config)"
        )
    return own


def tokenizer_beside(checkpoint: Path) -> Path:
    """Where a checkpoint's own tokenizer is, if it has one: beside the file, or in the diffusers directory."""
    return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / NAME


def with_digest(places: Iterable[Path], digest: str) -> Path | None:
    """The first of the directories that holds the tokenizer with this SHA-256."""
    return next((place for place in places if _digest_or_none(place) == digest), None)


def has_tokenizer(directory: Path) -> bool:
    """Whether the directory holds the files of a tokenizer."""
    return _digest_or_none(directory) is not None


def fitting_tokenizer(directory: Path, max_length: int, vocab_size: int) -> PromptTokenizer:
    """Reads a tokenizer. Raises `UserError` if it has more tokens than the text encoder, `vocab_size`."""
    loaded = _loaded(directory, tokenizer_digest(directory))
    tokenizer = PromptTokenizer(loaded.clip_tokenizer, max_length, loaded.digest)
    if (tokens := len(tokenizer.clip_tokenizer)) > vocab_size:
        raise UserError(
            f"the tokenizer in {directory} has {tokens} tokens, but the model's text encoder knows {vocab_size}"
        )
    return tokenizer


def repair_tokenizer(directory: Path, digest: str, sources: Iterable[Path]) -> None:
    """Restores a run's `tokenizer/` if it is damaged. Raises `UserError` if the same tokenizer is not found."""
    target = directory / NAME
    if _digest_or_none(target) == digest:
        return
    source = with_digest([*sources, *ELSEWHERE], digest)
    if source is None:
        raise UserError(
            f"{target} is damaged or missing: this run began with the tokenizer whose SHA-256 is {digest}. Copy the "
            "base model's tokenizer (vocab.json and merges.txt) there"
        )
    copy_tokenizer(source, target)
    log.warning("%s was damaged or missing: its files are copied from %s", target, source)


def _digest_or_none(directory: Path) -> str | None:
    try:
        return tokenizer_digest(directory)
    except (UserError, OSError):
        return None


@cache
def _loaded(directory: Path, digest: str) -> PromptTokenizer:
    return load_tokenizer(directory)


@cache
def _warn_damaged(own: Path, found: Path) -> None:
    log.warning("%s is damaged or another model's; the same tokenizer as in training is read from %s", own, found)

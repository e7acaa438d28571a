"""Words with vectors of their own (textual inversion, arXiv 2208.01618), and a tokenizer that knows them."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldm.errors import UserError
from ldm.nn.tokenizer import PromptTokenizer


@dataclass(frozen=True, eq=False)
class Embedding:
    """A word, and the vectors that stand for it in a prompt, in memory: they are a few kB."""

    path: Path
    token: str
    vectors: Tensor
    """(n d)"""
    short_hash: str = ""
    """The beginning of its file's SHA-256, by which other programs find it; empty if a checkpoint carries it."""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.token}"

    @property
    def digest(self) -> str:
        """SHA-256 of the word and the vectors, in float32: the same for a copy in another type that holds them."""
        numbers = self.vectors.float().contiguous().numpy().tobytes()
        words = f"{self.token.lower()} {tuple(self.vectors.shape)}\n"
        return hashlib.sha256(words.encode() + numbers).hexdigest()


def as_text(embeddings: Sequence[Embedding]) -> dict[str, str]:
    """The words and their vectors, as a checkpoint's metadata have them: float32 in safetensors' format and base64."""
    return {one.token: base64.b64encode(save({"vectors": one.vectors.float()})).decode() for one in embeddings}


def from_text(words: Mapping[str, str], path: Path) -> tuple[Embedding, ...]:
    """The inverse, of the metadata of the file `path`. Raises `UserError` if they are damaged."""
    try:
        found = {token: load(base64.b64decode(text, validate=True))["vectors"] for token, text in words.items()}
    except (ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: its words are damaged: {str(error)[:200]}") from error
    if wrong := [token for token, vectors in found.items() if vectors.ndim != 2 or not vectors.is_floating_point()]:
        raise UserError(f"{path}: its words are damaged: {wrong[0][:60]!r} has no vectors")
    return tuple(Embedding(path, token, vectors) for token, vectors in found.items())


def knowing(tokenizer: PromptTokenizer, embeddings: Sequence[Embedding], vocab_size: int) -> PromptTokenizer:
    """The tokenizer with these words, whose ids begin at `vocab_size`. Raises `UserError` for one word twice."""
    if not embeddings:
        return tokenizer
    counts: dict[str, int] = {}
    for one in embeddings:
        if one.token.lower() in counts:
            raise UserError(f"{one.path}: another embedding stands for '{one.token}' already; name it FILE:TOKEN")
        counts[one.token.lower()] = len(one.vectors)
    return tokenizer.with_words(counts, vocab_size, " ".join(one.digest for one in embeddings))


def all_vectors(embeddings: Sequence[Embedding]) -> Tensor | None:
    """The vectors of all words in their order (k d), float32; None if there are none."""
    return torch.cat([one.vectors.float() for one in embeddings]) if embeddings else None

"""Words with vectors of their own (textual inversion, arXiv 2208.01618), and a tokenizer that knows them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
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
    """The beginning of its file's SHA-256, by which other programs find it."""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.token}"

    @property
    def digest(self) -> str:
        """SHA-256 of the word and the vectors."""
        numbers = self.vectors.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        words = f"{self.token.lower()} {self.vectors.dtype} {tuple(self.vectors.shape)}\n"
        return hashlib.sha256(words.encode() + numbers).hexdigest()


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

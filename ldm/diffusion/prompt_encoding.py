"""Prompts with weights and of any length -> context: chunks of 75 tokens, each encoded alone, side by side.

The meaning of `ldm.prompt_syntax`, as in A1111: a token's hidden state is multiplied by its weight, and a chunk then by
one number that gives it the mean it had before.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.background import raise_if_cancelled
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.nn.tokenizer import PromptTokenizer
from ldm.prompt_syntax import Piece, parse_prompt

COMMA_WITHIN = 20
"""A chunk that is full ends at a comma, if there is one among so many last tokens."""


@dataclass(frozen=True)
class PromptReading:
    """How prompts are read."""

    with_syntax: bool = False
    """Weights, BREAK and more than 75 tokens, as in `ldm.prompt_syntax`; else as plain text, whose end is cut off."""
    clip_skip: int = 1
    """From which layer of the text encoder: 1 is the last, 2 the one before."""

    def key(self) -> dict[str, object]:
        """For keys of images: what differs from the original."""
        return {
            **({"prompt_syntax": "a1111"} if self.with_syntax else {}),
            **({"clip_skip": self.clip_skip} if self.clip_skip > 1 else {}),
        }


def encode_prompt(ldm: LatentDiffusion, prompt: str, reading: PromptReading = PromptReading()) -> Tensor:
    """A prompt -> context (1 n d), where n is 77 for each chunk."""
    if ldm.tokenizer is None:
        raise ValueError("this model was built without a tokenizer")
    raise_if_cancelled()
    if not reading.with_syntax:
        return ldm.text_encoder(ldm.tokenizer([prompt]).to(ldm.device), reading.clip_skip - 1)
    contexts = []
    for ids, weights in chunks_of(ldm.tokenizer, prompt):
        context = ldm.text_encoder(ids[None].to(ldm.device), reading.clip_skip - 1)
        contexts.append(weighted(context, weights.to(context)) if (weights != 1.0).any() else context)
    return torch.cat(contexts, dim=1)


def weighted(context: Tensor, weights: Tensor) -> Tensor:
    """A chunk's context (1 m d) with a weight for each token (m), and its mean as before."""
    changed = context * weights[:, None]
    return changed * (context.mean() / changed.mean())


def same_length(context: Tensor, other: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Both (1 n d), the shorter one with chunks of an empty prompt (1 77 d) at its end."""
    missing = (context.shape[1] - other.shape[1]) // empty.shape[1]
    padding = empty.repeat(1, abs(missing), 1)
    if missing < 0:
        return torch.cat([context, padding], dim=1), other
    return (context, torch.cat([other, padding], dim=1)) if missing else (context, other)


def chunks_of(tokenizer: PromptTokenizer, prompt: str) -> list[tuple[Tensor, Tensor]]:
    """Token ids (77,) int64 and weights (77,) of each chunk: begin, at most 75 tokens, end, padded with end."""
    size = tokenizer.max_length - 2
    chunks = [part for pieces in parse_prompt(prompt) for part in _full_chunks(tokenizer, pieces, size)]
    begin, end = tokenizer.begin, tokenizer.end
    found = []
    for tokens in chunks:
        padding = [(end, 1.0)] * (size - len(tokens) + 1)
        ids, weights = zip((begin, 1.0), *tokens, *padding, strict=True)
        found.append((torch.tensor(ids), torch.tensor(weights)))
    return found


def _full_chunks(tokenizer: PromptTokenizer, pieces: list[Piece], size: int) -> list[list[tuple[int, float]]]:
    """Tokens and their weights, in lists of at most `size`; one empty list if there are none."""
    left = [(token, piece.weight) for piece in pieces for token in tokenizer.token_ids(piece.text)]
    comma, chunks = tokenizer.token_ids(","), []
    while len(left) > size:
        end = size
        if tokenizer.continues_word(left[size][0]):  # the vectors of a learned word stay together
            while tokenizer.continues_word(left[end][0]):
                end -= 1
        elif left[size][0] not in comma:
            ends = [i + 1 for i in range(size - COMMA_WITHIN, size) if i >= 0 and left[i][0] in comma]
            end = ends[-1] if ends else size
        chunks.append(left[:end])
        left = left[end:]
    return [*chunks, left]

r"""Prompts as people write them elsewhere: weights, `BREAK` and alternatives, with the meaning that A1111 gives them.

(word)          1.1 times the attention; each further pair of brackets 1.1 times more
(word:1.3)      1.3 times
[word]          1 / 1.1 times
\( \) \[ \] \\   the characters themselves
BREAK           what follows begins in the next 75 tokens
{a|b}           a prompt for each: alternatives, also several in one prompt
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

ROUND, SQUARE = 1.1, 1 / 1.1
PARTS = re.compile(
    r"\\(?P<escaped>[()\[\]\\])|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[()\[\]]|[^\\()\[\]:]+|[\\:]"
)
BREAK = re.compile(r"\s*\bBREAK\b\s*")
ALTERNATIVES = re.compile(r"\{([^{}|]*\|[^{}]*)\}")


@dataclass
class Piece:
    """Neighbouring words of one weight."""

    text: str
    weight: float = 1.0


def parse_prompt(prompt: str) -> list[list[Piece]]:
    """The pieces between each BREAK and the next. A bracket that is never closed ends with the prompt."""
    pieces: list[Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    """For brackets of each kind that are not closed yet: how many pieces are before them."""
    for part in PARTS.finditer(prompt):
        token = part[0]
        if token in opened:
            opened[token].append(len(pieces))
        elif token == "]" and opened["["]:
            _multiply(pieces, opened["["].pop(), SQUARE)
        elif opened["("] and (token == ")" or part["weight"]):
            _multiply(pieces, opened["("].pop(), float(part["weight"] or ROUND))
        else:
            pieces.append(Piece(part["escaped"] or token))
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for first in opened[bracket]:
            _multiply(pieces, first, factor)
    return [[*_merged(chunk)] for chunk in _split_at_breaks(pieces)]


def unbalanced_brackets(prompt: str) -> list[str]:
    """The brackets without a partner, in their order: one that is never closed, and one that closes nothing."""
    opened: dict[str, list[int]] = {"(": [], "[": []}
    alone: dict[int, str] = {}
    for part in PARTS.finditer(prompt):
        if (token := part[0]) in opened:
            opened[token].append(part.start())
        elif token in ")]" or part["weight"]:
            partners = opened["[" if token == "]" else "("]
            if partners:
                partners.pop()
            else:
                alone[part.start()] = token[-1]
    alone |= {at: bracket for bracket, places in opened.items() for at in places}
    return [alone[at] for at in sorted(alone)]


def _multiply(pieces: list[Piece], first: int, factor: float) -> None:
    for piece in pieces[first:]:
        piece.weight *= factor


def _split_at_breaks(pieces: list[Piece]) -> list[list[Piece]]:
    chunks: list[list[Piece]] = [[]]
    for piece in pieces:
        first, *others = BREAK.split(piece.text)
        chunks[-1].append(Piece(first, piece.weight))
        chunks.extend([Piece(text, piece.weight)] for text in others)
    return chunks


def _merged(pieces: list[Piece]) -> Iterator[Piece]:
    """Neighbours of the same weight as one piece; empty ones are left out."""
    current: Piece | None = None
    for piece in (one for one in pieces if one.text):
        if current and current.weight == piece.weight:
            current = Piece(current.text + piece.text, piece.weight)
            continue
        if current:
            yield current
        current = piece
    if current:
        yield current


def plain_text(prompt: str) -> str:
    """The words without weights and BREAK."""
    return " ".join("".join(piece.text for piece in chunk).strip() for chunk in parse_prompt(prompt)).strip()


def count_alternatives(prompt: str) -> int:
    """How many prompts `alternatives` makes."""
    return prod(choice.count("|") + 1 for choice in ALTERNATIVES.findall(prompt))


def alternatives(prompt: str) -> list[str]:
    """A prompt for each choice of alternatives, in their order; the last ones change first."""
    texts = ALTERNATIVES.split(prompt)  # text, alternatives, text, ...
    choices = [text.split("|") if index % 2 else [text] for index, text in enumerate(texts)]
    return ["".join(parts) for parts in product(*choices)]

"""Whether `vocab.json` and `merges.txt`, which may be a stranger's, are a tokenizer of CLIP's kind."""

import json
import reprlib
from pathlib import Path

from ldm.errors import UserError
from ldm.user_files import read_text

VOCABULARY, MERGES = "vocab.json", "merges.txt"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MOST_BYTES, MOST_TOKENS = 32_000_000, 1_000_000
"""Of each file, and in a vocabulary; CLIP's have half a MB and 49,408."""


def raise_unless_vocabulary(directory: Path) -> int:
    """Raises `UserError` unless both files are what they should be; the number of merges."""
    path = directory / VOCABULARY
    try:
        tokens = json.loads(read_text(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a vocabulary in JSON: {str(error)[:200]}") from error
    if not isinstance(tokens, dict) or not 0 < len(tokens) <= MOST_TOKENS:
        raise UserError(f"{path} should hold tokens and their numbers, not {reprlib.repr(tokens)}")
    for token, number in tokens.items():
        if type(number) is not int or not 0 <= number < MOST_TOKENS:
            raise UserError(f"{path}: the token {reprlib.repr(token)} should have a number, not {reprlib.repr(number)}")
    if missing := [token for token in (BEGIN, END) if token not in tokens]:
        raise UserError(f"{path} lacks the token {missing[0]}: it is not a tokenizer of CLIP's kind")
    return _count_merges(directory / MERGES)


def _count_merges(path: Path) -> int:
    count = 0
    for number, line in enumerate(read_text(path, MOST_BYTES).split("\n"), 1):
        if not line.strip() or line.startswith("#version"):
            continue
        if len(line.split(" ")) != 2:
            raise UserError(f"{path}, line {number} should be two tokens, not {reprlib.repr(line)}")
        count += 1
    return count

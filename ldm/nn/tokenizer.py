"""CLIP's byte-pair tokenizer: prompts in, 77 ids out, and a warning that quotes the text that did not fit."""

import hashlib
import json
import logging
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from ldm.errors import UserError
from ldm.files import atomic_path, openable
from ldm.terminal import warn_once
from ldm.user_files import read_text

log = logging.getLogger(__name__)

TOGETHER = "tokenizer.json"
"""What newer versions of transformers save instead of the two files: both in one."""
FILES = VOCABULARY, MERGES = "vocab.json", "merges.txt"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MOST_BYTES, MOST_TOKENS = 32_000_000, 1_000_000
"""Limits of a file's size and of a vocabulary; CLIP's have half a MB and 49,408."""
END_OF_WORD = "</w>"
BYTES_ONLY = 514
"""Size of a vocabulary without merges: 256 bytes within a word, 256 at its end, begin and end of text."""


class PromptTokenizer:
    """`tokenizer(prompts) -> input_ids (b max_length) int64`: begin, at most 75 tokens, end, padded with end.

    `digest` is the SHA-256 of its files. `words`: further words with their ids, one for each of a word's vectors
    (textual inversion); they are found in a prompt as whole words, in capitals, too.
    """

    def __init__(
        self,
        clip_tokenizer: CLIPTokenizer,
        max_length: int = 77,
        digest: str = "",
        words: Mapping[str, range] | None = None,
    ) -> None:
        self.clip_tokenizer = clip_tokenizer
        self.digest = digest
        self.max_length = max_length
        self.words = {word.lower(): ids for word, ids in (words or {}).items()}
        self._pattern = whole_words(self.words)
        self._word_of = {token: word for word, ids in self.words.items() for token in ids}

    def with_words(self, counts: Mapping[str, int], first_id: int, digest: str) -> "PromptTokenizer":
        """The same with words of so many vectors each, whose ids follow one another from `first_id` on.

        `digest` stands for the vectors: it changes the tokenizer's.
        """
        words, start = {}, first_id
        for word, count in counts.items():
            words[word] = range(start, start + count)
            start += count
        both = hashlib.sha256(f"{self.digest} + {digest}".encode()).hexdigest()
        return PromptTokenizer(self.clip_tokenizer, self.max_length, both, words)

    def __call__(self, prompts: list[str]) -> Tensor:
        for prompt in prompts:
            self._warn_if_cut(prompt)
        if not prompts:
            return torch.zeros(0, self.max_length, dtype=torch.int64)
        if self.words:
            return torch.tensor([self._framed(prompt) for prompt in prompts], dtype=torch.int64)
        encoded = self.clip_tokenizer(prompts, truncation=True, max_length=self.max_length, padding="max_length")
        return torch.tensor(encoded["input_ids"], dtype=torch.int64)

    def _framed(self, prompt: str) -> list[int]:
        ids = self.token_ids(prompt)[: self.max_length - 2]
        return [self.begin, *ids, *[self.end] * (self.max_length - 1 - len(ids))]

    @property
    def begin(self) -> int:
        """The id before a prompt's tokens."""
        return int(self.clip_tokenizer.bos_token_id)

    @property
    def end(self) -> int:
        """The id after them, also the padding's."""
        return int(self.clip_tokenizer.eos_token_id)

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text of any length, without begin and end."""
        ids: list[int] = []
        for part in self._parts(text):
            if part.lower() in self.words:
                ids += self.words[part.lower()]
            else:
                ids += self.clip_tokenizer(part, truncation=False, verbose=False)["input_ids"][1:-1]
        return ids

    def continues_word(self, token: int) -> bool:
        """Whether it is a vector of one of the `words`, and not the first one."""
        return token in self._word_of and token != self.words[self._word_of[token]].start

    def _parts(self, text: str) -> list[str]:
        """The text, cut before and after each of the `words`."""
        return self._pattern.split(text) if self.words else [text]

    def cut_text(self, prompt: str) -> str:
        """The end of the prompt beyond `max_length`, decoded from its tokens; empty if all of it fits."""
        return self._decoded(self.token_ids(prompt)[self.max_length - 2 :])

    def _decoded(self, ids: Sequence[int]) -> str:
        groups = groupby(ids, lambda token: self._word_of.get(token, ""))
        return " ".join(word or self.clip_tokenizer.decode([*group]).strip() for word, group in groups)

    def tokens(self, text: str) -> list[str]:
        """The text's tokens as the vocabulary spells them; `</w>` ends a word."""
        parts = self._parts(text)
        return [
            token
            for part in parts
            for token in ([part] if part.lower() in self.words else self.clip_tokenizer.tokenize(part))
        ]

    def unknown_words(self, text: str) -> list[str]:
        """Words that are not one token: the captions on which the vocabulary was trained had few of them or none."""
        vocabulary = self.clip_tokenizer.get_vocab()
        text = " ".join(part for part in self._parts(text.lower()) if part not in self.words)
        words = dict.fromkeys(re.findall(r"[^\W\d_]+", text))
        return [word for word in words if len(word) > 1 and word + END_OF_WORD not in vocabulary]

    def _warn_if_cut(self, prompt: str) -> None:
        if cut := self.cut_text(prompt):
            warn_once(log, "the prompt is longer than %d tokens; its end is cut off: '%s'", self.max_length, cut)


def whole_words(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern of these words, the longest first, where no letter, digit or underscore continues them."""
    longest_first = sorted(words, key=len, reverse=True)
    edged = (
        ("(?<!\\w)" if re.match(r"\w", word) else "") + re.escape(word) + ("(?!\\w)" if re.search(r"\w$", word) else "")
        for word in longest_first
    )
    return re.compile(f"({'|'.join(edged)})", re.IGNORECASE)


def load_tokenizer(directory: Path, max_length: int = 77) -> PromptTokenizer:
    """Reads `vocab.json` and `merges.txt` from a directory, or `tokenizer.json`, which holds both."""
    if _is_together(directory):
        return _load_separated(directory, max_length)
    _raise_if_missing(directory)
    merges = raise_unless_vocabulary(directory)
    try:
        with openable(directory) as name:
            clip_tokenizer = CLIPTokenizer.from_pretrained(str(name), local_files_only=True)
    except Exception as error:  # the tokenizers library raises no narrower class
        raise UserError(f"the tokenizer in {directory} can't be read: {error}") from error
    if merges == 0 and clip_tokenizer.vocab_size > BYTES_ONLY:
        raise UserError(f"{directory / 'merges.txt'} is empty, but vocab.json has merged tokens; fetch both again")
    return PromptTokenizer(clip_tokenizer, max_length, tokenizer_digest(directory))


def tokenizer_digest(directory: Path) -> str:
    """SHA-256 of a tokenizer's files; of `tokenizer.json` as if it were these files."""
    return hashlib.sha256(b"".join(tokenizer_files(directory).values())).hexdigest()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies the tokenizer's files into the directory `target`, each atomically; replaces existing ones."""
    for name, content in tokenizer_files(source).items():
        with atomic_path(target / name) as partial:
            partial.write_bytes(content)


def tokenizer_files(directory: Path) -> dict[str, bytes]:
    """The content of `vocab.json` and `merges.txt`; those of CLIP have the published bytes also if they are together.

    Raises `UserError` if one is missing or `tokenizer.json` is damaged.
    """
    if not _is_together(directory):
        _raise_if_missing(directory)
        return {name: (directory / name).read_bytes() for name in FILES}
    path = directory / TOGETHER
    try:
        model = json.loads(read_text(path, MOST_BYTES))["model"]
        vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        contents = json.dumps(vocabulary, separators=(",", ":")), "\n".join(["#version: 0.2", *merges, ""])
        return dict(zip(FILES, (content.encode() for content in contents), strict=True))
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's JSON makes of this
        raise UserError(f"{path} is not a CLIP tokenizer: {type(error).__name__}: {str(error)[:200]}") from error


def _is_together(directory: Path) -> bool:
    return (directory / TOGETHER).is_file() and not any((directory / name).exists() for name in FILES)


def _load_separated(directory: Path, max_length: int) -> PromptTokenizer:
    with TemporaryDirectory() as name:
        copy_tokenizer(directory, Path(name))
        try:
            return load_tokenizer(Path(name), max_length)
        except UserError as error:
            raise UserError(str(error).replace(name, str(directory / TOGETHER))) from error


def _raise_if_missing(directory: Path) -> None:
    for name in FILES:
        if not (directory / name).is_file():
            raise UserError(f"the tokenizer's {name} is missing in {directory}; copy the base model's tokenizer there")


def raise_unless_vocabulary(directory: Path) -> int:
    """The number of merges. Raises `UserError` unless both files, which may be a stranger's, are a CLIP tokenizer's."""
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
        raise UserError(f"{path} lacks the token {missing[0]}: it is not a CLIP tokenizer")
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

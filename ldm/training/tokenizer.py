"""Trains a tokenizer of CLIP's kind on captions: byte pairs, so that any word can be encoded.

"Neural Machine Translation of Rare Words with Subword Units" (arXiv 1508.07909); the bytes' spelling is GPT-2's, the
rest CLIP's (arXiv 2103.00020, section 2.4).
"""

import json
import logging
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from ldm.errors import UserError
from ldm.files import atomic_directory
from ldm.nn.tokenizer import BEGIN, BYTES_ONLY, END, END_OF_WORD

log = logging.getLogger(__name__)

SPECIAL = (BEGIN, END)
"""Last in the vocabulary: the text encoder takes the last token for the end of a text."""
WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")


def train_tokenizer(captions: Iterable[str], vocab_size: int, directory: Path) -> None:
    """Writes `vocab.json` and `merges.txt` of `vocab_size` tokens: 512 bytes, the most frequent merges, 2 special ones.

    Raises `UserError` if the captions have too few different pairs for that many.
    """
    if vocab_size < BYTES_ONLY:
        raise UserError(f"vocab_size should be at least {BYTES_ONLY}: every byte, within and at the end of a word")
    merges = _learn_merges(captions, vocab_size - BYTES_ONLY)
    if len(merges) < vocab_size - BYTES_ONLY:
        raise UserError(
            f"these captions give a vocabulary of {BYTES_ONLY + len(merges)} tokens, not {vocab_size}; "
            f"set text_encoder.vocab_size to at most that in the model's YAML"
        )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *(a + b for a, b in merges), *SPECIAL]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    with atomic_directory(directory) as partial:  # each file is useless without the other
        (partial / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2\n", *(f"{a} {b}\n" for a, b in merges)]
        (partial / "merges.txt").write_text("".join(lines), encoding="utf-8")
    log.info("%s: %d tokens", directory, len(vocabulary))


def _learn_merges(captions: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent merges in order; fewer if there are no more pairs."""
    tokenizer = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=count + 2 * len(letters),
        initial_alphabet=letters,
        special_tokens=[letter + END_OF_WORD for letter in letters],
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain.from_iterable([caption] for caption in captions), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]][:count]

"""A tokenizer learned from captions: read as CLIP's is, it spells any text, and frequent words are one token."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import CLIPTokenizer

from ldm.errors import UserError
from ldm.nn.tokenizer import BYTES_ONLY, PromptTokenizer, load_tokenizer
from ldm.training.tokenizer import train_tokenizer

CAPTIONS = [
    "A photo of a red ball on the beach",
    "a photo of a RED teapot, on the beach!",
    "a photo of the blue ball's shadow at 12:30",
    "a drawing of a blue teapot — très jolie",
] * 3
VOCABULARY = 560
NORMAL = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 46 merges. It is shared: don't write to it."""
    directory = tmp_path_factory.mktemp("learned") / "tokenizer"
    train_tokenizer(CAPTIONS, VOCABULARY, directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> PromptTokenizer:
    return load_tokenizer(directory)


def vocabulary(directory: Path) -> dict[str, int]:
    entries: dict[str, int] = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    return entries


def merges(directory: Path) -> list[tuple[str, ...]]:
    lines = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#version: 0.2"
    return [tuple(line.split(" ")) for line in lines[1:]]


def test_the_vocabulary_is_of_this_size_and_ends_with_begin_and_end_of_text(directory: Path) -> None:
    tokens = vocabulary(directory)
    assert sorted(tokens.values()) == list(range(VOCABULARY))
    assert (tokens["<|startoftext|>"], tokens["<|endoftext|>"]) == (VOCABULARY - 2, VOCABULARY - 1)
    assert len(merges(directory)) == VOCABULARY - BYTES_ONLY
    assert [left + right for left, right in merges(directory)] == list(tokens)[512:-2]


def test_prompts_are_framed_and_padded_as_clips(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer(["a ball", ""])
    assert ids.shape == (2, 77)
    assert ids[:, 0].tolist() == [VOCABULARY - 2] * 2
    assert (ids[0, 3:] == VOCABULARY - 1).all()
    assert (ids[1, 1:] == VOCABULARY - 1).all()


def test_frequent_words_are_one_token(tokenizer: PromptTokenizer) -> None:
    words = ["a", "photo", "of", "red", "blue", "ball", "teapot", "beach", "the", "on"]
    assert tokenizer.clip_tokenizer.tokenize(" ".join(words)) == [f"{word}</w>" for word in words]


def test_the_first_merge_is_of_the_most_frequent_pair(directory: Path) -> None:
    first = merges(directory)[0]
    words = [word for caption in CAPTIONS for word in caption.lower().split()]
    counts: dict[tuple[str, ...], int] = {}
    for word in words:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for pair in pairwise(letters):
            counts[pair] = counts.get(pair, 0) + 1
    assert counts[first] == max(counts.values())


def test_sks_is_encodable_and_no_token_of_its_own(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.clip_tokenizer("a photo of sks ball")["input_ids"]
    assert tokenizer.clip_tokenizer.tokenize("sks") == ["s", "k", "s</w>"]
    assert tokenizer.clip_tokenizer.decode(ids, skip_special_tokens=True).strip() == "a photo of sks ball"


def spelled(text: str) -> str:
    """Without the spaces, which byte pairs don't keep."""
    return "".join(text.split())


# Transformers before 5 drops unassigned characters and others without a shape.
@given(st.text(st.characters(exclude_categories=("C",)), max_size=30))
def test_any_text_comes_back_in_lower_case(tokenizer: PromptTokenizer, text: str) -> None:
    assume("<|" not in text)
    ids = tokenizer.clip_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert max(ids, default=0) < VOCABULARY - 2
    assert spelled(tokenizer.clip_tokenizer.decode(ids)) == spelled(NORMAL.normalize_str(text))


def apart(words: list[str]) -> str:
    return " ".join(words)


@given(st.lists(st.text("abcdeflopst", min_size=1, max_size=9), min_size=1, max_size=5).map(apart))
def test_words_come_back_with_their_spaces(tokenizer: PromptTokenizer, text: str) -> None:
    ids = tokenizer.clip_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.clip_tokenizer.decode(ids).strip() == text


def merged(word: str, ranks: dict[tuple[str, ...], int]) -> Iterator[str]:
    """Byte pairs as the paper has them: again and again, the pair of lowest rank is joined wherever it is."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while pairs := [pair for pair in pairwise(pieces) if pair in ranks]:
        best = min(pairs, key=lambda pair: ranks[pair])
        joined: list[str] = []
        while pieces:
            if tuple(pieces[:2]) == best:
                joined.append(pieces.pop(0) + pieces.pop(0))
            else:
                joined.append(pieces.pop(0))
        pieces = joined
    yield from pieces


@given(st.text("abcdefhlopst", min_size=1, max_size=12))
def test_transformers_merges_as_the_paper_says(directory: Path, tokenizer: PromptTokenizer, word: str) -> None:
    ranks = {pair: rank for rank, pair in enumerate(merges(directory))}
    assert tokenizer.clip_tokenizer.tokenize(word) == list(merged(word, ranks))


def test_it_is_read_by_transformers_alone(directory: Path, tokenizer: PromptTokenizer) -> None:
    clip = CLIPTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))
    for caption in CAPTIONS[:4]:
        assert clip(caption)["input_ids"] == tokenizer.clip_tokenizer(caption)["input_ids"]


def test_the_same_captions_give_the_same_files(directory: Path, tmp_path: Path) -> None:
    train_tokenizer(CAPTIONS, VOCABULARY, tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_without_merges_every_byte_is_a_token(tmp_path: Path) -> None:
    train_tokenizer([], BYTES_ONLY, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.clip_tokenizer.tokenize("sks") == ["s", "k", "s</w>"]
    assert len(tokenizer.clip_tokenizer("é", add_special_tokens=False)["input_ids"]) == 2


def test_a_vocabulary_below_all_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size should be at least 514"):
        train_tokenizer(CAPTIONS, 513, tmp_path)


def test_too_uniform_captions_are_told_what_they_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a vocabulary of (\d+) tokens, not 5000; .*text_encoder\.vocab_size") as error:
        train_tokenizer(["a cat", "a dog"], 5000, tmp_path)
    assert not list(tmp_path.iterdir())
    possible = int(str(error.value).split(" tokens")[0].split()[-1])
    assert possible == BYTES_ONLY + 4  # ca, cat, do, dog
    train_tokenizer(["a cat", "a dog"], possible, tmp_path)
    assert load_tokenizer(tmp_path).clip_tokenizer.tokenize("a cat") == ["a</w>", "cat</w>"]

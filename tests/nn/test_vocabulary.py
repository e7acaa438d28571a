"""Tokenizer files of strangers: what is wrong with them is told by name, at once."""

import os
from pathlib import Path

import pytest

from ldm.errors import UserError
from ldm.nn.tokenizer import load_tokenizer
from ldm.nn.vocabulary import raise_unless_vocabulary
from tests.oracle import TOKENIZER
from tests.tiny import write_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer")


def test_known_tokenizers_are_what_they_should_be(directory: Path) -> None:
    assert raise_unless_vocabulary(directory) == 0
    assert raise_unless_vocabulary(TOKENIZER) == 48_894


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a vocabulary in JSON"),
        (b"\0\1", "not a vocabulary in JSON"),
        (b"[" * 100_000, "not a vocabulary in JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a vocabulary in JSON"),
        (b"[1, 2]", "should hold tokens"),
        (b"{}", "should hold tokens"),
        (b'{"a": "b"}', "the token 'a' should have a number, not 'b'"),
        (b'{"a": true}', "the token 'a' should have a number, not True"),
        (b'{"a": -1}', "the token 'a' should have a number, not -1"),
        (b'{"a": 1000000000}', "the token 'a' should have a number"),
        (b'{"a": {"b": [1]}}', "the token 'a' should have a number"),
        (b'{"a": 1}', "lacks the token <|startoftext|>"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
    ],
)
def test_a_vocabulary_that_is_none_is_named(content: bytes, words: str, directory: Path) -> None:
    (directory / "vocab.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_tokenizer(directory)
    assert f"{directory / 'vocab.json'}" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("line", ["a", "a b c", "x" * 10**6])
def test_merges_that_are_none_are_named_by_their_line(line: str, directory: Path) -> None:
    (directory / "merges.txt").write_text(f"#version: 0.2\n{line}\n")
    with pytest.raises(UserError, match=r"merges\.txt, line 2 should be two tokens"):
        load_tokenizer(directory)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_file_of_a_gigabyte_is_not_read(name: str, directory: Path) -> None:
    os.truncate(directory / name, 10**9)
    with pytest.raises(UserError, match=f"{name} is too large"):
        load_tokenizer(directory)

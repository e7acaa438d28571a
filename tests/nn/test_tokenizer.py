"""The tokenizer: ids of known tokenizers, the warning when a prompt is cut, and damaged files."""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.errors import UserError
from ldm.nn.tokenizer import PromptTokenizer, copy_tokenizer, load_tokenizer, raise_unless_vocabulary
from tests.oracle import TOKENIZER, facts
from tests.tiny import write_tokenizer

CASES = facts("tokenizer-cases")["cases"]
REFERENCE = "sd_v1_reference"


def accepted(case: dict[str, Any]) -> dict[str, list[int]]:
    """The accepted ids, by the name of the tokenizer that gives them."""
    return {REFERENCE: case["ids"], **case.get("differs", {})}


@pytest.fixture
def tokenizer() -> PromptTokenizer:
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def shared_tokenizer() -> PromptTokenizer:
    return load_tokenizer(TOKENIZER)


def text_of(name: str) -> str:
    return next(case["text"] for case in CASES if case["name"] == name)


def test_there_are_as_many_cases_as_the_readme_says() -> None:
    assert len(CASES) == 56
    assert sum(case["agree"] for case in CASES) == 38


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']} as {' or '.join(accepted(case))}")
def test_ids_are_those_of_a_known_tokenizer(
    case: dict[str, Any], shared_tokenizer: PromptTokenizer, record_property: Any
) -> None:
    ids = shared_tokenizer([case["text"]])
    assert ids.shape == (1, 77)
    assert ids.dtype == torch.int64
    same = [name for name, expected in accepted(case).items() if ids[0].tolist() == expected]
    record_property("same_ids_as", ", ".join(same))
    assert same, f"{case['text']!r} -> {ids[0].tolist()}: not what {' or '.join(accepted(case))} gives"


def test_a_batch_is_each_of_its_prompts(tokenizer: PromptTokenizer) -> None:
    prompts = [case["text"] for case in CASES]
    assert torch.equal(tokenizer(prompts), torch.cat([tokenizer([prompt]) for prompt in prompts]))


def test_another_length_cuts_and_pads_to_that(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(TOKENIZER, max_length=5)
    assert tokenizer(["a cat", "a photo of a cat"]).tolist() == [
        [49406, 320, 2368, 49407, 49407],
        [49406, 320, 1125, 539, 49407],
    ]
    assert "longer than 5 tokens" in caplog.text
    assert "'a cat'" in caplog.text


@pytest.mark.parametrize("name", ["empty", "space", "plain", "artist list", "emoji", "exactly 75"])
def test_nothing_is_cut_from_a_prompt_that_fits(
    name: str, tokenizer: PromptTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    assert tokenizer.cut_text(text_of(name)) == ""
    tokenizer([text_of(name)])
    assert not caplog.records


def test_the_seventy_sixth_token_is_cut(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.cut_text(text_of("exactly 76")) == "cat"


def test_the_warning_quotes_what_was_cut(tokenizer: PromptTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    kept = " ".join(["cat"] * 75)
    tokenizer([kept + " in a red hat, oil painting"])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'in a red hat , oil painting'" in caplog.text
    assert torch.equal(tokenizer([kept]), tokenizer([kept + " in a red hat, oil painting"]))


def test_the_cut_text_and_the_kept_text_are_the_whole_prompt(tokenizer: PromptTokenizer) -> None:
    prompt = text_of("long")
    kept = tokenizer.clip_tokenizer.decode(tokenizer([prompt])[0, 1:76].tolist())
    assert (kept + tokenizer.cut_text(prompt)).replace(" ", "") == prompt.replace(" ", "")


def test_each_long_prompt_triggers_one_warning(tokenizer: PromptTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    first, second = "cat " * 80, "dog " * 80
    tokenizer([first, first, "short"])
    tokenizer([first])
    assert len(caplog.records) == 1
    tokenizer([second, first])
    assert len(caplog.records) == 2
    assert "dog" in caplog.records[1].getMessage()


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    shutil.copytree(TOKENIZER, tmp_path, dirs_exist_ok=True)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path)
    assert missing in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_copy_is_a_complete_tokenizer(tmp_path: Path) -> None:
    copy_tokenizer(TOKENIZER, tmp_path / "deep" / "tokenizer")
    assert sorted(path.name for path in (tmp_path / "deep" / "tokenizer").iterdir()) == ["merges.txt", "vocab.json"]
    assert load_tokenizer(tmp_path / "deep" / "tokenizer")(["a cat"])[0, :4].tolist() == [49406, 320, 2368, 49407]


def test_an_incomplete_tokenizer_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    shutil.copy(TOKENIZER / "vocab.json", tmp_path / "source")
    with pytest.raises(UserError, match=r"merges\.txt is missing in .*source"):
        copy_tokenizer(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("content", ["", "#version: 0.2\n"])
def test_empty_merges_of_a_vocabulary_with_merged_tokens_are_refused(content: str, tmp_path: Path) -> None:
    shutil.copytree(TOKENIZER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "merges.txt").write_text(content)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'merges.txt'} is empty")):
        load_tokenizer(tmp_path)


# Files of strangers


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer")


def test_good_tokenizers_are_accepted(directory: Path) -> None:
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
def test_a_damaged_vocabulary_is_named_with_the_reason(content: bytes, words: str, directory: Path) -> None:
    (directory / "vocab.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_tokenizer(directory)
    assert f"{directory / 'vocab.json'}" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("line", ["a", "a b c", "x" * 10**6])
def test_damaged_merges_are_named_by_their_line(line: str, directory: Path) -> None:
    (directory / "merges.txt").write_text(f"#version: 0.2\n{line}\n")
    with pytest.raises(UserError, match=r"merges\.txt, line 2 should be two tokens"):
        load_tokenizer(directory)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_file_of_a_gigabyte_is_not_read(name: str, directory: Path) -> None:
    os.truncate(directory / name, 10**9)
    with pytest.raises(UserError, match=f"{name} is too large"):
        load_tokenizer(directory)


def test_further_words_have_ids_of_their_own_wherever_they_stand(
    tokenizer: PromptTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """As whole words, in capitals, beside punctuation; the rest is tokenized as before, and no word is in another."""
    learned = tokenizer.with_words({"<cat-toy>": 2, "sks": 1, "sks2": 1}, 49408, "vectors")
    comma, end = tokenizer.token_ids(",")[0], [49407]
    ids = [49406, 49410, comma, 49408, 49409, *tokenizer.token_ids("tasks"), 49411]
    assert learned(["SKS, <cat-toy> tasks sks2"]).tolist() == [ids + end * (77 - len(ids))]
    assert learned(["a photo of a cat"]).tolist() == tokenizer(["a photo of a cat"]).tolist()
    assert [learned.continues_word(one) for one in (320, 49408, 49409, 49410)] == [False, False, True, False]
    assert learned.tokens("a sks cat") == ["a</w>", "sks", "cat</w>"]
    assert learned.unknown_words("xqzt sks") == ["xqzt"]
    assert learned.cut_text("a " * 75 + "<cat-toy> cat") == "<cat-toy> cat"
    assert learned.cut_text("a photo of sks") == "" and not caplog.records

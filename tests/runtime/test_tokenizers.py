"""A checkpoint's tokenizer: the one it was trained with, and never from where a stranger's file points."""

import shutil
from pathlib import Path

import pytest

from ldm.config import to_yaml
from ldm.files import ROOT
from ldm.nn.tokenizer import tokenizer_digest
from ldm.runtime import tokenizers
from ldm.runtime.tokenizers import is_confined
from tests.commands.calls import call, refused
from tests.commands.fixtures import Sample
from tests.oracle import TOKENIZER
from tests.tiny import TINY_YAML, write_tiny_checkpoint, write_tokenizer


@pytest.mark.parametrize(
    "path", ["", "/etc", "../tokenizer", "ldm/../../tokenizer", "a\0b", "x" * 5000, str(ROOT / "ldm" / "assets")]
)
def test_a_path_out_of_the_repository_is_not_confined(path: str) -> None:
    assert not is_confined(path)


def test_a_symbolic_link_out_of_the_repository_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "ROOT", tmp_path / "repository")
    (tmp_path / "repository" / "inner").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "repository" / "link").symlink_to(tmp_path / "secret")
    assert is_confined("inner") and not is_confined("link") and not is_confined("link/deeper")


@pytest.mark.parametrize("named", ["/anywhere/tokenizer", "../../tokenizer"])
def test_a_checkpoint_that_points_elsewhere_is_refused_by_name(named: str, tmp_path: Path) -> None:
    """A path outside the repository is not read; a tokenizer beside the checkpoint is."""
    checkpoint = write_tiny_checkpoint(tmp_path / "theirs", config={**TINY_YAML, "tokenizer": named})
    beside = shutil.move(tmp_path / "theirs" / "tokenizer", tmp_path / "away")
    words = ("-c", checkpoint, "-v", 1, "-o", tmp_path / "out")
    refused(call("txt2img", *words), str(checkpoint), "outside of this repository", "--config")
    assert not (tmp_path / "out").exists()
    shutil.move(beside, tmp_path / "theirs" / "tokenizer")
    assert call("txt2img", *words).status == 0


def test_a_users_own_yaml_may_name_any_place(tmp_path: Path) -> None:

    elsewhere = write_tokenizer(tmp_path / "elsewhere")
    (tmp_path / "mine.yaml").write_text(to_yaml({**TINY_YAML, "tokenizer": str(elsewhere)}))
    checkpoint = write_tiny_checkpoint(tmp_path / "ckpt", config={})
    shutil.rmtree(tmp_path / "ckpt" / "tokenizer")
    words = ("-c", checkpoint, "--config", tmp_path / "mine.yaml", "-v", 1, "-o", tmp_path / "out")
    assert call("txt2img", *words).status == 0


def test_a_damaged_tokenizer_beside_a_checkpoint_is_an_error_before_sampling(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path / "known")
    checkpoint = write_tiny_checkpoint(tmp_path / "ckpt", tokenizer=tokenizer_digest(directory))
    vocabulary = tmp_path / "ckpt" / "tokenizer" / "vocab.json"
    vocabulary.write_text(vocabulary.read_text().replace('"a"', '"?"').replace('"o"', '"a"').replace('"?"', '"o"'))
    words = ("-c", checkpoint, "-v", 1, "-o", tmp_path / "out")
    refused(call("txt2img", *words), str(vocabulary.parent), tokenizer_digest(directory))
    assert not (tmp_path / "out").exists()


def test_a_damaged_tokenizer_is_read_from_another_place_that_has_it(
    txt2img: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_tokenizer(tmp_path / "known")
    checkpoint = write_tiny_checkpoint(tmp_path / "ckpt", tokenizer=tokenizer_digest(directory))
    expected = txt2img("-c", checkpoint, "-v", 1).images[0]
    (tmp_path / "ckpt" / "tokenizer" / "merges.txt").write_text("#version: 0.2\nc a\n")
    monkeypatch.setattr(tokenizers, "ELSEWHERE", (directory,))
    outcome = txt2img("-c", checkpoint, "-v", 1)
    assert "damaged or another model's" in outcome.said
    assert (outcome.images[0] == expected).all()


def test_clips_vocabulary_is_embedded_with_its_licence() -> None:
    assert "MIT License, Copyright (c) 2021 OpenAI" in (TOKENIZER / "README.md").read_text()
    assert TOKENIZER.is_relative_to(ROOT / "ldm" / "assets")


def test_a_tokenizer_with_more_tokens_than_the_model_knows_is_refused_before_anything_is_made(
    tmp_path: Path, subject_dir: Path
) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "ckpt")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TOKENIZER / name, tmp_path / "ckpt" / "tokenizer")
    words = ("has 49408 tokens", "knows 514")
    refused(call("txt2img", "-c", checkpoint, "-o", tmp_path / "out"), *words)
    training_run = ("-c", "can", "-i", subject_dir, "--ckpt-path", checkpoint, "-o", tmp_path / "out")
    refused(call("dreambooth", *training_run), *words)
    assert not (tmp_path / "out").exists()

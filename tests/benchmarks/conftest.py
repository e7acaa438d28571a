"""A tiny judge's file and tokenizer, to run whole benchmarks with."""

import pytest

from ldm.toyworld.judge.file import judge_writer
from tests.judges import build_tiny_judge, judge_tokenizer


@pytest.fixture(scope="session")
def judge_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags with which a benchmark asks the tiny judge."""
    directory = tmp_path_factory.mktemp("judge")
    tokenizer = judge_tokenizer(directory / "tokenizer")
    judge_writer(directory / "judge.safetensors", build_tiny_judge(), tokenizer.digest)()
    return ["--judge", str(directory / "judge.safetensors"), "--tokenizer", str(directory / "tokenizer")]

"""download/sd-weights.sh: what is not the right file is never put in place."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote
from tests.download.sd_weights.conftest import CLIP_URL, SCRIPT, SHA256, TOKENIZER, V1_4_URL, WEIGHTS, part


def test_a_wrong_hash_is_never_put_in_place(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    remote.content = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert SHA256 in result.stderr
    assert hashlib.sha256(remote.content).hexdigest() in result.stderr
    assert not ckpt.exists()
    assert not part(ckpt).exists()


@pytest.mark.parametrize("size", [50_000, 300_000, 400_000])
def test_a_part_of_other_bytes_is_found_out_and_the_next_run_starts_over(
    checkout: Checkout, ckpt: Path, size: int
) -> None:
    part(ckpt).write_bytes(bytes(size))
    assert checkout.run(SCRIPT).returncode == 1
    assert not ckpt.exists()
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS


def test_a_wrong_file_under_the_right_name_is_replaced(checkout: Checkout, ckpt: Path) -> None:
    ckpt.write_bytes(b"half of something")
    result = checkout.run(SCRIPT)
    assert result.returncode == 0
    assert "not the right file" in result.stderr
    assert ckpt.read_bytes() == WEIGHTS


def test_a_wrong_file_stays_until_the_right_one_is_complete(checkout: Checkout, hub: Hub, ckpt: Path) -> None:
    ckpt.write_bytes(b"half of something")
    del hub.files[V1_4_URL]
    assert checkout.run(SCRIPT).returncode == 1
    assert ckpt.read_bytes() == b"half of something"


def truncated(name: str) -> bytes:
    return (TOKENIZER / name).read_bytes()[:-20]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", truncated("vocab.json")),
        ("vocab.json", (TOKENIZER / "vocab.json").read_bytes().replace(b'"!":0,', b"")),
        ("vocab.json", b"<html>Please log in to the network</html>"),
        ("merges.txt", truncated("merges.txt")),
        ("merges.txt", (TOKENIZER / "merges.txt").read_bytes().removeprefix(b"#version: 0.2\n")),
        ("merges.txt", b"#version: 0.2\n" + b"one\n" * 48894),
    ],
    ids=["cut vocab", "token missing", "web page", "cut merges", "no version", "no pairs"],
)
def test_tokenizer_files_that_are_not_clips_are_refused(
    checkout: Checkout, hub: Hub, name: str, content: bytes
) -> None:
    hub.files[f"{CLIP_URL}/{name}"].content = content
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "expected" in result.stderr
    assert not (checkout.root / "weights/sd-v1/tokenizer" / name).exists()
    assert not (checkout.root / "weights/sd-v1/tokenizer" / f"{name}.part").exists()


def test_a_vocabulary_laid_out_over_lines_is_accepted(checkout: Checkout, hub: Hub) -> None:
    vocab = hub.files[f"{CLIP_URL}/vocab.json"]
    vocab.content = re.sub(rb'":(\d+)', rb'": \1\n', vocab.content) + b"\n"
    assert checkout.run(SCRIPT).returncode == 0

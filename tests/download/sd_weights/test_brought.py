"""download/sd-weights.sh: what it brings, and what is seen meanwhile."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub
from tests.download.sd_weights.conftest import SCRIPT, TOKENIZER, WEIGHTS, files_below


def test_without_arguments_it_brings_v1_4_and_the_tokenizer(checkout: Checkout) -> None:
    result = checkout.run(SCRIPT)
    assert result.returncode == 0, result.stderr
    directory = checkout.root / "weights" / "sd-v1"
    assert files_below(directory) == {"sd-v1-4.ckpt", "tokenizer/vocab.json", "tokenizer/merges.txt"}
    assert (directory / "sd-v1-4.ckpt").read_bytes() == WEIGHTS
    assert (directory / "tokenizer/vocab.json").read_bytes() == (TOKENIZER / "vocab.json").read_bytes()
    assert (directory / "tokenizer/merges.txt").read_bytes() == (TOKENIZER / "merges.txt").read_bytes()


def test_v1_5_is_brought_when_asked_for(checkout: Checkout, directory: Path) -> None:
    assert checkout.run(SCRIPT, "v1-5").returncode == 0
    assert (directory / "v1-5-pruned-emaonly.ckpt").read_bytes() == WEIGHTS
    assert not (directory / "sd-v1-4.ckpt").exists()


def test_sd_weights_dir_moves_the_files(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.run(SCRIPT, SD_WEIGHTS_DIR=str(tmp_path / "large disk")).returncode == 0
    assert (tmp_path / "large disk" / "sd-v1-4.ckpt").read_bytes() == WEIGHTS
    assert not (checkout.root / "weights").exists()


def test_nothing_is_left_in_the_temporary_directory(checkout: Checkout) -> None:
    assert checkout.run(SCRIPT).returncode == 0
    assert not list((checkout.root / "tmp").iterdir())


def test_a_second_run_verifies_and_asks_the_server_for_nothing(checkout: Checkout, hub: Hub) -> None:
    assert checkout.run(SCRIPT).returncode == 0
    hub.requests.clear()
    result = checkout.run(SCRIPT)
    assert result.returncode == 0
    assert result.stderr.count("already there") == 3
    assert not hub.requests


def test_help_explains_and_touches_nothing(checkout: Checkout, hub: Hub) -> None:
    result = checkout.run(SCRIPT, "--help")
    assert result.returncode == 0
    assert all(word in result.stdout for word in ("v1-5", "SD_WEIGHTS_DIR", "HF_TOKEN", "HF_ENDPOINT"))
    assert not (checkout.root / "weights").exists()
    assert not hub.requests


@pytest.mark.parametrize("args", [["v2-1"], ["v1-4", "v1-5"]])
def test_another_version_is_refused_with_the_ones_there_are(checkout: Checkout, hub: Hub, args: list[str]) -> None:
    result = checkout.run(SCRIPT, *args)
    assert result.returncode == 1
    assert "v1-4 or v1-5" in result.stderr
    assert not hub.requests


def test_a_terminal_shows_a_progress_bar(checkout: Checkout, directory: Path) -> None:
    reader, writer = pty.openpty()
    process = subprocess.Popen(
        ["bash", str(checkout.root / "download" / SCRIPT)],
        env=checkout.env | {"COLUMNS": "80"},
        stderr=writer,
    )
    os.close(writer)
    seen = b""
    while chunk := _read(reader):
        seen += chunk
    os.close(reader)
    assert process.wait(10) == 0
    assert b"100.0%" in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def test_a_log_file_gets_no_progress_bar(checkout: Checkout, directory: Path) -> None:
    result = checkout.run(SCRIPT)
    assert result.returncode == 0
    assert "%" not in result.stderr
    assert "\r" not in result.stderr

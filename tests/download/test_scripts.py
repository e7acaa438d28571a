"""The scripts as a user calls them: `bash download/<name>.sh`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ldm.commands.download import dreambooth_data, sd_weights
from ldm.commands.download.hub import VARIABLES
from ldm.files import ROOT
from tests.download.conftest import refused
from tests.download.hub_server import DATASET, Hub

PHOTO = random.Random(5).randbytes(12_000_000)


@pytest.fixture
def shell(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Return an environment whose `python` is this one; a test may give it flags."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" $FLAGS "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "DREAMBOOTH_DATA_DIR": "my photos"}


def start(environment: dict[str, str], directory: Path, script: str | Path, *words: str) -> subprocess.Popen[str]:
    """Start a script from a directory that is not the project's."""
    command = ["bash", str(ROOT / "download" / script), *words]
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=directory, env=environment, text=True, **said)


def finish(process: subprocess.Popen[str], status: int) -> str:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert "Traceback" not in said
    return said


@pytest.mark.slow
def test_a_stopped_download_is_continued_and_no_other_process_interferes(
    hub: Hub, shell: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("hf_right")  # of `hf auth login`
    for name in ("prompts_and_classes.txt", "references_and_licenses.txt"):
        hub.add_to_dataset(name, b"", is_large=False)
    remote = hub.add_to_dataset("dog/00.jpg", PHOTO)
    remote.token, remote.hold_after = "hf_right", 11_000_000  # more than a piece of 10 MB
    process = start(shell, tmp_path, "dreambooth-data.sh", "dog")
    assert remote.holding.wait(60)
    monkeypatch.setenv("DREAMBOOTH_DATA_DIR", str(tmp_path / "my photos"))
    refused(dreambooth_data.main, "is being written by another process", arguments=("dog",))
    process.send_signal(signal.SIGINT)
    assert "continue with\n  bash download/dreambooth-data.sh dog" in finish(process, 75)
    photo = tmp_path / "my photos" / "dog" / "00.jpg"
    assert not photo.exists()
    kept = photo.with_name("00.jpg.part").stat().st_size
    assert kept > 0

    remote.hold_after = None
    finish(start(shell, tmp_path, "dreambooth-data.sh", "dog"), 0)
    assert photo.read_bytes() == PHOTO
    assert hub.fetched(f"{DATASET}/dog/00.jpg") == [None, f"bytes={kept}-"]


@pytest.mark.parametrize(
    ("version", "sha256"),
    [
        ("v1-4", "fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556"),
        ("v1-5", "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516"),
    ],
)
def test_only_the_true_checkpoint_is_accepted(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, sha256: str
) -> None:
    file = sd_weights.CHECKPOINTS[version]
    hub.add(f"/{file.repo}/resolve/main/{file.path}", b"something else")
    monkeypatch.setenv("SD_WEIGHTS_DIR", str(tmp_path))
    refused(sd_weights.main, f"expected  {sha256}", arguments=(version,))
    assert not (tmp_path / file.path).exists()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sd-weights.sh", ["v1-5", "SD_WEIGHTS_DIR", "copy it there"]),
        ("eval-weights.sh", ["DINO", "CLIP", "EVAL_WEIGHTS_DIR"]),
        ("dreambooth-data.sh", ["--list", "DREAMBOOTH_DATA_DIR", "python dreambooth.py -c dog"]),
    ],
)
def test_help_explains(shell: dict[str, str], tmp_path: Path, script: str, words: list[str]) -> None:
    """Also if the script is called by a link to a link."""
    (tmp_path / "link").symlink_to(os.path.relpath(ROOT / "download" / script, tmp_path.resolve()))
    (tmp_path / "far away").mkdir()
    (tmp_path / "far away" / "get weights").symlink_to(Path("..") / "link")
    said = finish(start(shell, tmp_path, tmp_path / "far away" / "get weights", "--help"), 0)
    assert [word for word in [*words, *VARIABLES] if word not in said] == []


def test_a_variable_that_is_no_number_is_named(shell: dict[str, str], tmp_path: Path) -> None:
    said = finish(start(shell | {"HF_HUB_DOWNLOAD_TIMEOUT": "abc"}, tmp_path, "sd-weights.sh"), 2)
    assert said.startswith("error: HF_HUB_DOWNLOAD_TIMEOUT should be a whole number of seconds")


def test_without_the_environment_the_user_is_told_what_to_do(shell: dict[str, str], tmp_path: Path) -> None:
    without_packages = start(shell | {"FLAGS": "-S"}, tmp_path, "sd-weights.sh")
    assert "is not installed in" in (said := finish(without_packages, 2))
    assert "conda activate ldm" in said
    (tmp_path / "bin" / "python").unlink()
    (tmp_path / "bin" / "bash").symlink_to(shutil.which("bash") or "/bin/bash")
    said = finish(start(shell | {"PATH": str(tmp_path / "bin")}, tmp_path, "sd-weights.sh"), 2)
    assert "there is no python here; activate the environment: conda activate ldm" in said

"""download/eval-weights.sh, in this process. What goes wrong on the way is tested with download/sd-weights.sh."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from ldm.commands.download import eval_weights
from ldm.commands.download.eval_weights import main
from ldm.evaluation.clip_dino import CLIP, DINO
from ldm.evaluation.clip_dino import DIRECTORY as LOOKED_IN
from tests.download.conftest import call, refused
from tests.download.hub_server import Hub, Remote, sha256

WEIGHTS = "pytorch_model.bin"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVAL_WEIGHTS_DIR", str(tmp_path / "eval"))
    return tmp_path / "eval"


@pytest.fixture(autouse=True)
def remotes(hub: Hub, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Remote]:
    """By folder and name: what the server has. Small weights have the hash that the command expects of CLIP's."""
    rng, remotes, known = random.Random(16), {}, []
    for file in eval_weights.FILES:
        is_large = file.path == WEIGHTS
        content = rng.randbytes(100_000) if is_large else f"{file.repo}/{file.path}: é".encode()
        remote = hub.add(f"/{file.repo}/resolve/{file.revision}/{file.path}", content, is_large)
        remotes[f"{file.repo.split('/')[1]}/{file.path}"] = remote
        known.append(replace(file, hash=sha256(content) if file.hash else ""))
    monkeypatch.setattr(eval_weights, "FILES", known)
    return remotes


def test_both_networks_are_where_scores_look_and_what_is_wrong_comes_again(
    hub: Hub, remotes: dict[str, Remote], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert eval_weights.DIRECTORY == LOOKED_IN
    monkeypatch.delenv("EVAL_WEIGHTS_DIR")
    monkeypatch.setattr(eval_weights, "DIRECTORY", directory)
    call(main)
    served = {name: remote.content for name, remote in remotes.items()}
    assert {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.glob("*/*")} == served
    assert {name.split("/")[0] for name in served} == {DINO, CLIP}

    hub.requests.clear()
    (directory / DINO / WEIGHTS).write_bytes(b"?")
    (directory / CLIP / "vocab.json").write_bytes(b"?")
    assert call(main).count("already there") == 6
    assert {path.rpartition("/")[2] for method, path, *_ in hub.requests if method == "GET"} == {WEIGHTS, "vocab.json"}
    assert {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.glob("*/*")} == served


def test_clips_weights_are_the_known_ones_whatever_the_hub_names(remotes: dict[str, Remote], directory: Path) -> None:
    remote = remotes[f"{CLIP}/{WEIGHTS}"]
    remote.content = b"?" + remote.content[1:]
    remote.etag = sha256(remote.content)
    refused(main, "not the right file")
    assert not (directory / CLIP / WEIGHTS).exists()


def test_a_server_that_names_no_hash_is_told(remotes: dict[str, Remote]) -> None:
    remotes[f"{DINO}/config.json"].etag = ""
    refused(main, "config.json names no hash of the file", "HF_ENDPOINT")

"""download/eval-weights.sh against a server that lists and serves two small repositories of the same shape.

What common.sh does about broken connections, logins, full disks and interruptions is tested with the other scripts.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote

SCRIPT = "eval-weights.sh"
DINO = "facebook/dino-vits16", "abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd"
CLIP = "openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
CLIP_SHA256 = "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"
FILES = {
    DINO: ("config.json", "preprocessor_config.json", "pytorch_model.bin"),
    CLIP: ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt", "pytorch_model.bin"),
}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """The Hub's entry for a file: weights are kept in LFS, texts in git."""
    if not path.endswith(".bin"):
        return {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    oid = hashlib.sha1(path.encode()).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "lfs": lfs, "xetHash": "0" * 64, "path": path}


def serve_repository(hub: Hub, repository: tuple[str, str], contents: dict[str, bytes], **layout: Any) -> None:
    name, commit = repository
    for path, content in contents.items():
        hub.files[f"/{name}/resolve/{commit}/{path}"] = Remote(content)
    # Others stand in between, also ones whose names end in the same way.
    extra = {"README.md": b"hello", "flax_config.json": b"{}", "old_pytorch_model.bin": b"older"}
    entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "onnx"}]
    entries += [entry(path, content) for path, content in sorted((contents | extra).items())]
    hub.files[f"/api/models/{name}/tree/{commit}"] = Remote(json.dumps(entries, **layout).encode())


@pytest.fixture(autouse=True)
def contents(hub: Hub, checkout: Checkout) -> dict[str, bytes]:
    """By folder and name: what the server has. The copy of the script has the small weights' hash."""
    rng = random.Random(16)
    served = {}
    for repository, names in FILES.items():
        folder = repository[0].split("/")[1]
        inside = {
            name: rng.randbytes(200_000) if name.endswith(".bin") else f"{folder}/{name}: é".encode() for name in names
        }
        serve_repository(hub, repository, inside, separators=(",", ":"))
        served |= {f"{folder}/{name}": content for name, content in inside.items()}
    ours = hashlib.sha256(served["clip-vit-base-patch32/pytorch_model.bin"]).hexdigest()
    checkout.put_in_place_of(CLIP_SHA256, ours, SCRIPT)
    return served


@pytest.fixture
def directory(checkout: Checkout) -> Path:
    return checkout.root / "weights" / "eval"


def content_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def remote(hub: Hub, repository: tuple[str, str], name: str) -> Remote:
    return hub.files[f"/{repository[0]}/resolve/{repository[1]}/{name}"]


def test_both_networks_are_brought(checkout: Checkout, directory: Path, contents: dict[str, bytes]) -> None:
    result = checkout.run(SCRIPT)
    assert result.returncode == 0, result.stderr
    assert content_below(directory) == contents
    assert not list((checkout.root / "tmp").iterdir())


def test_a_listing_laid_out_over_lines_is_understood(checkout: Checkout, hub: Hub, directory: Path) -> None:
    inside = {name: name.encode() for name in FILES[DINO]}
    serve_repository(hub, DINO, inside, indent=2)
    assert checkout.run(SCRIPT).returncode == 0
    assert content_below(directory / "dino-vits16") == inside


def test_a_second_run_compares_hashes_and_downloads_nothing(checkout: Checkout, hub: Hub) -> None:
    assert checkout.run(SCRIPT).returncode == 0
    hub.requests.clear()
    result = checkout.run(SCRIPT)
    assert result.returncode == 0
    assert result.stderr.count("already there") == 8
    assert {request.path.split("/")[1] for request in hub.requests} == {"api"}


@pytest.mark.parametrize("name", ["dino-vits16/pytorch_model.bin", "clip-vit-base-patch32/vocab.json"])
def test_what_is_wrong_is_brought_anew(
    checkout: Checkout, directory: Path, contents: dict[str, bytes], name: str
) -> None:
    assert checkout.run(SCRIPT).returncode == 0
    (directory / name).write_bytes(contents[name][:-1] + b"?")
    assert checkout.run(SCRIPT).returncode == 0
    assert content_below(directory) == contents


@pytest.mark.parametrize("repository", [DINO, CLIP])
def test_other_bytes_than_listed_are_never_put_in_place(
    checkout: Checkout, hub: Hub, directory: Path, repository: tuple[str, str]
) -> None:
    remote(hub, repository, "pytorch_model.bin").content += b"?"
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "not the right file" in result.stderr
    assert not (directory / repository[0].split("/")[1] / "pytorch_model.bin").exists()


def test_clips_weights_are_the_known_ones_whatever_is_listed(
    checkout: Checkout, hub: Hub, directory: Path, contents: dict[str, bytes]
) -> None:
    changed = {name: contents[f"clip-vit-base-patch32/{name}"] for name in FILES[CLIP]}
    changed["pytorch_model.bin"] += b"?"
    serve_repository(hub, CLIP, changed)
    assert checkout.run(SCRIPT).returncode == 1
    assert not (directory / "clip-vit-base-patch32/pytorch_model.bin").exists()


def test_a_file_that_is_not_listed_is_named(checkout: Checkout, hub: Hub) -> None:
    serve_repository(hub, DINO, {"config.json": b"{}", "preprocessor_config.json": b"{}"})
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "lists no pytorch_model.bin in facebook/dino-vits16" in result.stderr


def test_a_repository_that_is_gone_is_named(checkout: Checkout, hub: Hub) -> None:
    del hub.files[f"/api/models/{DINO[0]}/tree/{DINO[1]}"]
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert f"there is no {hub.url}/api/models/facebook/dino-vits16" in result.stderr


def test_eval_weights_dir_moves_the_files(checkout: Checkout, tmp_path: Path, contents: dict[str, bytes]) -> None:
    assert checkout.run(SCRIPT, EVAL_WEIGHTS_DIR=str(tmp_path / "large disk")).returncode == 0
    assert content_below(tmp_path / "large disk") == contents
    assert not (checkout.root / "weights").exists()


def test_help_explains_and_touches_nothing(checkout: Checkout, hub: Hub) -> None:
    result = checkout.run(SCRIPT, "--help")
    assert result.returncode == 0
    assert all(word in result.stdout for word in ("DINO", "CLIP", "EVAL_WEIGHTS_DIR", "HF_TOKEN", "HF_ENDPOINT"))
    assert not (checkout.root / "weights").exists()
    assert not hub.requests


def test_an_argument_is_refused(checkout: Checkout, hub: Hub) -> None:
    result = checkout.run(SCRIPT, "dino")
    assert result.returncode == 1
    assert "see --help" in result.stderr
    assert not hub.requests

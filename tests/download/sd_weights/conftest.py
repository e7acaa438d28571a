"""Small weights in place of the true ones, on the tests' server."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote

SCRIPT = "sd-weights.sh"
TOKENIZER = Path(__file__).parents[3] / "ldm" / "assets" / "clip-tokenizer"

V1_4_URL = "/CompVis/stable-diffusion-v-1-4-original/resolve/main/sd-v1-4.ckpt"
V1_4_SHA256 = "fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556"
V1_5_URL = "/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/main/v1-5-pruned-emaonly.ckpt"
V1_5_SHA256 = "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516"
CLIP_URL = "/openai/clip-vit-large-patch14/resolve/main"

WEIGHTS = random.Random(14).randbytes(300_000)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture(autouse=True)
def remote(hub: Hub, checkout: Checkout) -> Remote:
    """Serve small weights, whose hash the copy of the script then has in place of the true one."""
    for name in ("vocab.json", "merges.txt"):
        hub.files[f"{CLIP_URL}/{name}"] = Remote((TOKENIZER / name).read_bytes())
    hub.files[V1_4_URL] = hub.files[V1_5_URL] = Remote(WEIGHTS)
    checkout.put_in_place_of(V1_4_SHA256, SHA256, SCRIPT)
    checkout.put_in_place_of(V1_5_SHA256, SHA256, SCRIPT)
    return hub.files[V1_4_URL]


@pytest.fixture
def directory(checkout: Checkout) -> Path:
    """Return the place of the weights, with the tokenizer's files already there."""
    directory = checkout.root / "weights" / "sd-v1"
    (directory / "tokenizer").mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TOKENIZER / name, directory / "tokenizer" / name)
    return directory


@pytest.fixture
def ckpt(directory: Path) -> Path:
    return directory / "sd-v1-4.ckpt"


def part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}

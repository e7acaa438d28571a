"""download/dreambooth-data.sh against a server that lists and serves a small dataset of the same shape."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote

SCRIPT = "dreambooth-data.sh"
LISTING_URL = "/api/datasets/google/dreambooth/tree/main/dataset?recursive=true"
FILE_URL = "/datasets/google/dreambooth/resolve/main"
TEXTS = ("dataset/prompts_and_classes.txt", "dataset/references_and_licenses.txt")


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """Return the Hub's entry for a file: photos are kept in LFS, texts in git."""
    if path.endswith(".txt"):
        return {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 131}
    oid = hashlib.sha1(path.encode()).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "lfs": lfs, "xetHash": "0" * 64, "path": path}


class Dataset:
    """The dataset on the server."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.entries: list[dict[str, Any]] = []

    def add(self, path: str, content: bytes) -> None:
        self.hub.files[f"{FILE_URL}/{path}"] = Remote(content)
        self.entries.append(entry(path, content))
        self.list_entries()

    def list_entries(self, **layout: Any) -> None:
        layout = layout or {"separators": (",", ":")}
        self.hub.files[LISTING_URL] = Remote(json.dumps(self.entries, **layout).encode())

    def remote(self, path: str) -> Remote:
        return self.hub.files[f"{FILE_URL}/dataset/{path}"]


@pytest.fixture(autouse=True)
def dataset(hub: Hub) -> Dataset:
    dataset = Dataset(hub)
    rng = random.Random(30)
    for text in TEXTS:
        dataset.add(text, f"{text}: é\n".encode())
    for subject, numbers in {"can": (0, 1, 2), "dog": (0, 1, 3), "dog2": (0,)}.items():
        dataset.entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": f"dataset/{subject}"})
        for number in numbers:
            dataset.add(f"dataset/{subject}/{number:02}.jpg", rng.randbytes(30_000))
    return dataset


@pytest.fixture
def directory(checkout: Checkout) -> Path:
    return checkout.root / "data" / "dreambooth"


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_subject_is_brought_with_the_prompts_and_the_licences(
    checkout: Checkout, dataset: Dataset, directory: Path
) -> None:
    result = checkout.run(SCRIPT, "dog")
    assert result.returncode == 0, result.stderr
    assert files_below(directory) == {
        "dog/00.jpg", "dog/01.jpg", "dog/03.jpg", "prompts_and_classes.txt", "references_and_licenses.txt"
    }  # fmt: skip
    for name in files_below(directory):
        assert (directory / name).read_bytes() == dataset.remote(name).content


def test_several_subjects_can_be_named(checkout: Checkout, directory: Path) -> None:
    assert checkout.run(SCRIPT, "can", "dog2").returncode == 0
    assert {path.parent.name for path in directory.glob("*/*.jpg")} == {"can", "dog2"}


def test_without_arguments_all_thirty_subjects_are_brought(
    checkout: Checkout, dataset: Dataset, directory: Path
) -> None:
    names = [line.split()[0] for line in checkout.run(SCRIPT, "--list").stdout.splitlines()]
    for name in names:
        if name not in ("can", "dog", "dog2"):
            dataset.add(f"dataset/{name}/00.jpg", name.encode())
    assert checkout.run(SCRIPT).returncode == 0
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == sorted(names)
    assert (directory / "wolf_plushie" / "00.jpg").read_bytes() == b"wolf_plushie"


def test_list_gives_thirty_subjects_with_their_classes(checkout: Checkout, hub: Hub) -> None:
    lines = checkout.run(SCRIPT, "--list").stdout.splitlines()
    classes = {name: class_name.strip() for name, class_name in (line.split(None, 1) for line in lines)}
    assert len(lines) == len(classes) == 30
    assert len(set(classes.values())) == 15
    assert classes["dog8"] == "dog"
    assert classes["bear_plushie"] == "stuffed animal"
    assert not hub.requests


def test_help_explains_and_touches_nothing(checkout: Checkout, hub: Hub, directory: Path) -> None:
    result = checkout.run(SCRIPT, "--help")
    assert result.returncode == 0
    assert all(word in result.stdout for word in ("--list", "DREAMBOOTH_DATA_DIR", "HF_ENDPOINT", "dreambooth.py"))
    assert not directory.exists()
    assert not hub.requests


@pytest.mark.parametrize("name", ["dogg", "do", ".*", "--lst", "dog dog2", ""])
def test_an_unknown_subject_is_refused_with_the_ones_there_are(checkout: Checkout, hub: Hub, name: str) -> None:
    result = checkout.run(SCRIPT, "can", name)
    assert result.returncode == 1
    assert f"no subject '{name}'" in result.stderr
    assert "teapot" in result.stderr
    assert not hub.requests


def test_dreambooth_data_dir_moves_the_files(checkout: Checkout, directory: Path, tmp_path: Path) -> None:
    assert checkout.run(SCRIPT, "dog2", DREAMBOOTH_DATA_DIR=str(tmp_path / "photos")).returncode == 0
    assert (tmp_path / "photos" / "dog2" / "00.jpg").exists()
    assert not directory.exists()


def test_a_second_run_asks_only_for_the_list(checkout: Checkout, hub: Hub) -> None:
    assert checkout.run(SCRIPT, "dog").returncode == 0
    hub.requests.clear()
    result = checkout.run(SCRIPT, "dog")
    assert result.returncode == 0
    assert "0 new, 5 already there" in result.stderr
    assert [r.path for r in hub.requests] == [LISTING_URL]


def test_only_what_is_missing_or_damaged_is_brought_again(
    checkout: Checkout, hub: Hub, dataset: Dataset, directory: Path
) -> None:
    assert checkout.run(SCRIPT, "dog").returncode == 0
    hub.requests.clear()
    (directory / "dog/00.jpg").unlink()
    (directory / "dog/01.jpg").write_bytes(b"damaged")
    (directory / "prompts_and_classes.txt").write_bytes(b"damaged")
    assert checkout.run(SCRIPT, "dog").returncode == 0
    asked = [r.path.rpartition("/dataset/")[2] for r in hub.requests if r.path != LISTING_URL]
    assert asked == ["dog/00.jpg", "dog/01.jpg", "prompts_and_classes.txt"]
    for name in files_below(directory):
        assert (directory / name).read_bytes() == dataset.remote(name).content


@pytest.mark.parametrize("name", ["dog/01.jpg", "prompts_and_classes.txt"])
def test_a_file_that_is_not_the_listed_one_is_never_put_in_place(
    checkout: Checkout, dataset: Dataset, directory: Path, name: str
) -> None:
    listed = dataset.remote(name).content
    dataset.remote(name).content = listed[:-1] + b"?"
    result = checkout.run(SCRIPT, "dog")
    assert result.returncode == 1
    assert (git_oid(listed) if name.endswith(".txt") else hashlib.sha256(listed).hexdigest()) in result.stderr
    assert files_below(directory) >= {"dog/00.jpg"}
    assert not {name, f"{name}.part"} & files_below(directory)


def test_a_listing_in_another_layout_is_read_too(checkout: Checkout, dataset: Dataset, directory: Path) -> None:
    dataset.entries = [dict(reversed(entry.items())) for entry in dataset.entries]
    dataset.list_entries(indent=2)
    assert checkout.run(SCRIPT, "can").returncode == 0
    assert len(files_below(directory)) == 5


def test_a_photo_that_is_kept_in_git_itself_is_verified_by_gits_hash(
    checkout: Checkout, dataset: Dataset, directory: Path
) -> None:
    content = dataset.remote("dog2/00.jpg").content
    dataset.entries = [e for e in dataset.entries if e["path"] != "dataset/dog2/00.jpg"]
    dataset.entries.append(entry("in git.txt", content) | {"path": "dataset/dog2/00.jpg"})
    dataset.list_entries()
    assert checkout.run(SCRIPT, "dog2").returncode == 0
    assert (directory / "dog2/00.jpg").read_bytes() == content


@pytest.mark.parametrize("path", ["dataset/dog2/../../../evil.jpg", "dataset/dog2/../evil.jpg", "/evil.jpg"])
def test_a_listing_cannot_lead_out_of_the_directory(
    checkout: Checkout, dataset: Dataset, directory: Path, tmp_path: Path, path: str
) -> None:
    dataset.add(path, b"evil")
    assert checkout.run(SCRIPT, "dog2").returncode == 0
    assert (directory / "dog2/00.jpg").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_a_listing_without_the_subject_says_that_the_dataset_has_changed(checkout: Checkout) -> None:
    result = checkout.run(SCRIPT, "teapot")
    assert result.returncode == 1
    assert "no photos of teapot" in result.stderr


def test_a_hub_that_asks_for_a_login_is_explained_and_opened_by_a_token(
    checkout: Checkout, hub: Hub, directory: Path
) -> None:
    for remote in hub.files.values():
        remote.token = "hf_right"
    result = checkout.run(SCRIPT, "dog2")
    assert result.returncode == 1
    assert "https://huggingface.co/datasets/google/dreambooth\n" in result.stderr
    assert checkout.run(SCRIPT, "dog2", HF_TOKEN="hf_right").returncode == 0
    assert (directory / "dog2/00.jpg").exists()


def test_a_mirror_without_the_dataset_is_named(checkout: Checkout, hub: Hub) -> None:
    hub.files.clear()
    result = checkout.run(SCRIPT, "dog2")
    assert result.returncode == 1
    assert f"there is no {hub.url}{LISTING_URL}" in result.stderr
    assert "HF_ENDPOINT" in result.stderr


def test_no_room_is_noticed_before_the_photo(checkout: Checkout, dataset: Dataset, directory: Path) -> None:
    dataset.entries[-1]["size"] = 10**17
    dataset.list_entries()
    result = checkout.run(SCRIPT, "dog2")
    assert result.returncode == 1
    assert "not enough room for 00.jpg" in result.stderr
    assert "DREAMBOOTH_DATA_DIR" in result.stderr

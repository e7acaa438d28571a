"""download/dreambooth-data.sh, in this process, against a server with a small dataset of the same shape."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled

from ldm.commands.download import dreambooth_data
from ldm.commands.download.dreambooth_data import main
from ldm.files import ROOT
from tests.download.conftest import Terminal, call, refused
from tests.download.hub_server import DATASET, LISTING, Hub, git_sha1, sha256

TEXTS = ("prompts_and_classes.txt", "references_and_licenses.txt")
DOG = {"dog/00.jpg", "dog/01.jpg", "dog/03.jpg", *TEXTS}


@pytest.fixture(autouse=True)
def photos(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve three subjects; return the directory that their photos come to."""
    monkeypatch.setenv("DREAMBOOTH_DATA_DIR", str(tmp_path / "photos"))
    rng = random.Random(30)
    for name in TEXTS:
        hub.add_to_dataset(name, f"{name}: é\n".encode(), is_large=False)
    for name in ("can/00.jpg", "dog/00.jpg", "dog/01.jpg", "dog/03.jpg", "dog2/00.jpg"):
        hub.add_to_dataset(name, rng.randbytes(30_000))
    return tmp_path / "photos"


def check(hub: Hub, photos: Path, names: set[str]) -> None:
    """Assert that these files are there, as they were served, and no others."""
    assert {path.relative_to(photos).as_posix() for path in photos.rglob("*.*") if path.name != ".lock"} == names
    for name in names:
        assert (photos / name).read_bytes() == hub.files[f"{DATASET}/{name}"].content


def test_subjects_come_with_the_prompts_and_the_licences(
    hub: Hub, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dreambooth_data.DIRECTORY == ROOT / "data" / "dreambooth"
    monkeypatch.delenv("DREAMBOOTH_DATA_DIR")
    monkeypatch.setattr(dreambooth_data, "DIRECTORY", photos)
    said = call(main, "dog", "dog2", terminal=Terminal)
    assert "Done: 6 files" in said
    assert "%|" not in said  # a line for each file, and no bars
    assert not are_progress_bars_disabled()
    check(hub, photos, {"dog2/00.jpg", *DOG})
    monkeypatch.setattr(dreambooth_data, "SUBJECTS", {name: name for name in ("can", "dog", "dog2")})
    call(main)  # all there are
    check(hub, photos, {"can/00.jpg", "dog2/00.jpg", *DOG})


def test_list_gives_thirty_subjects_with_their_classes(hub: Hub) -> None:
    classes = dict(line.split(None, 1) for line in call(main, "--list").splitlines())
    assert len(classes) == 30
    assert len(set(classes.values())) == 15
    assert (classes["dog8"], classes["bear_plushie"]) == ("dog", "stuffed animal")
    assert not hub.requests


@pytest.mark.parametrize("name", ["dogg", ".*", ""])
def test_an_unknown_subject_is_refused_with_the_ones_there_are(hub: Hub, name: str) -> None:
    refused(main, f"no subject '{name}'", "teapot", arguments=("can", name))
    assert not hub.requests


def test_only_what_is_missing_or_wrong_comes_again(hub: Hub, photos: Path) -> None:
    call(main, "dog")
    hub.requests.clear()
    assert "(0 new, 5 already there)" in call(main, "dog")
    assert {path for _, path, *_ in hub.requests} == {LISTING}
    (photos / "dog/00.jpg").unlink()
    (photos / "dog/01.jpg").write_bytes(b"damaged")
    (photos / TEXTS[0]).write_bytes(b"damaged")
    assert "(3 new, 2 already there)" in call(main, "dog")
    check(hub, photos, DOG)


@pytest.mark.parametrize(("name", "digest"), [("dog/01.jpg", sha256), (TEXTS[0], git_sha1)])
def test_other_bytes_than_listed_never_get_the_name(
    hub: Hub, photos: Path, name: str, digest: Callable[[bytes], str]
) -> None:
    remote = hub.files[f"{DATASET}/{name}"]
    listed = digest(remote.content)
    remote.content = remote.content[:-1] + b"?"
    refused(main, listed, "not the right file", arguments=("dog",))
    assert (photos / "dog/00.jpg").exists()
    assert not list(photos.glob(f"{name}*"))


@pytest.mark.parametrize(
    "name", ["dog2/../../../evil.jpg", "dog2/../evil.jpg", "/evil.jpg", "dog2/0.jpg\n/../evil.jpg"]
)
def test_a_listing_cannot_lead_out_of_the_directory(hub: Hub, photos: Path, name: str) -> None:
    hub.add_to_dataset(name, b"evil")
    call(main, "dog2")
    check(hub, photos, {"dog2/00.jpg", *TEXTS})
    assert not list(photos.parent.rglob("evil*"))


@pytest.mark.parametrize("answer", [b"<html>Please log in</html>", b'[{"type": "file"}]'])
def test_an_answer_that_is_no_listing_is_told(hub: Hub, photos: Path, answer: bytes) -> None:
    hub.files[LISTING].content = answer
    refused(main, "gave no answer of the Hub's kind", "proxy", arguments=("dog2",))
    assert not photos.exists()


def test_what_the_hub_does_not_have_or_not_give_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(main, "lists no photos of teapot", "Has the dataset changed?", arguments=("teapot",))
    hub.files[LISTING].token = "hf_right"
    refused(main, "https://huggingface.co/datasets/google/dreambooth\n", arguments=("dog2",))
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    call(main, "dog2")
    hub.files.clear()
    refused(main, f"there is no {hub.url}{LISTING}", "HF_ENDPOINT", arguments=("dog2",))


@pytest.mark.usefixtures("offline")
def test_nothing_is_asked_offline(hub: Hub) -> None:
    refused(main, "HF_HUB_OFFLINE is set", arguments=("dog2",))
    assert not hub.requests

"""download/sd-weights.sh, in this process: what arrives, and what is said where it doesn't."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from ldm.commands.download import hub as hub_files
from ldm.commands.download import sd_weights
from ldm.commands.download.sd_weights import main
from ldm.runtime.models import DOWNLOADED
from tests.download.conftest import Terminal, ask, call, refused
from tests.download.hub_server import Hub, Remote, serve, sha256
from tests.full_disk import files_of_at_most

URL = "/CompVis/stable-diffusion-v-1-4-original/resolve/main/sd-v1-4.ckpt"
V1_5_URL = "/stable-diffusion-v1-5/stable-diffusion-v1-5/resolve/main/v1-5-pruned-emaonly.ckpt"
EDIT_URL = "/timbrooks/instruct-pix2pix/resolve/main/instruct-pix2pix-00-22000.safetensors"
WEIGHTS = random.Random(14).randbytes(300_000)
WRONG = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]


@pytest.fixture(autouse=True)
def remote(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Serve small weights, whose hash the command then expects."""
    known = {name: replace(file, hash=sha256(WEIGHTS)) for name, file in sd_weights.CHECKPOINTS.items()}
    monkeypatch.setattr(sd_weights, "CHECKPOINTS", known)
    hub.add(V1_5_URL, WEIGHTS)
    hub.add(EDIT_URL, WEIGHTS)
    return hub.add(URL, WEIGHTS)


@pytest.fixture(autouse=True)
def ckpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place of the checkpoint, whose directory is there."""
    (tmp_path / "large disk").mkdir()
    monkeypatch.setenv("SD_WEIGHTS_DIR", str(tmp_path / "large disk"))
    return tmp_path / "large disk" / "sd-v1-4.ckpt"


@pytest.fixture
def part(ckpt: Path) -> Path:
    return ckpt.with_name("sd-v1-4.ckpt.part")


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.mark.parametrize(("arguments", "name"), [((), "sd-v1-4.ckpt"), (("v1-5",), "v1-5-pruned-emaonly.ckpt")])
def test_the_checkpoint_is_where_commands_look(
    ckpt: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], name: str
) -> None:
    assert sd_weights.DIRECTORY == DOWNLOADED
    monkeypatch.delenv("SD_WEIGHTS_DIR")
    monkeypatch.setattr(sd_weights, "DIRECTORY", ckpt.parent / "weights" / "sd-v1")
    assert "%" not in call(main, *arguments)  # a log file gets no progress bar
    assert (ckpt.parent / "weights" / "sd-v1" / name).read_bytes() == WEIGHTS
    assert {path.name for path in (ckpt.parent / "weights" / "sd-v1").iterdir()} == {name, ".lock"}


def test_the_checkpoint_that_edits_is_apart_from_those_that_commands_take_unnamed(
    ckpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DOWNLOADED not in (sd_weights.EDITS, *sd_weights.EDITS.parents)
    monkeypatch.delenv("SD_WEIGHTS_DIR")
    monkeypatch.setattr(sd_weights, "EDITS", ckpt.parent / "edits")
    call(main, "instruct-pix2pix")
    assert (ckpt.parent / "edits" / "instruct-pix2pix-00-22000.safetensors").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("offline")
def test_what_was_copied_by_hand_is_verified_without_a_network(hub: Hub, ckpt: Path) -> None:
    ckpt.write_bytes(WEIGHTS)
    call(main)
    assert [path.name for path in ckpt.parent.iterdir()] == [ckpt.name]
    ckpt.write_bytes(WRONG)
    refused(main, "is not the right file", sha256(WEIGHTS), sha256(WRONG), "HF_HUB_OFFLINE is set", f"file to {ckpt}")
    assert ckpt.read_bytes() == WRONG
    assert not hub.requests


def test_another_version_is_refused(hub: Hub) -> None:
    refused(main, "usage: bash download/sd-weights.sh", "{v1-4,v1-5,instruct-pix2pix}", "v2-1", arguments=("v2-1",))
    assert not hub.requests


def test_a_broken_download_continues_as_long_as_something_arrives(hub: Hub, remote: Remote, ckpt: Path) -> None:
    remote.breaks = [10_000] * 29
    assert "%|" in call(main, terminal=Terminal)
    assert ckpt.read_bytes() == WEIGHTS
    assert hub.fetched(URL) == [None, *(f"bytes={start}-" for start in range(10_000, 300_000, 10_000))]


def test_what_arrived_is_kept_for_the_next_call(hub: Hub, remote: Remote, ckpt: Path, part: Path) -> None:
    remote.breaks = [120_000] + [0] * 100
    refused(main, "connection to 127.0.0.1", "failed", "120 kB) is kept: the same command continues it")
    assert part.read_bytes() == WEIGHTS[:120_000]
    assert not ckpt.exists()
    remote.breaks, hub.requests = [], []
    assert "continuing after 120 kB" in call(main)
    assert ckpt.read_bytes() == WEIGHTS
    assert hub.fetched(URL) == ["bytes=120000-"]


@pytest.mark.parametrize("size", [len(WEIGHTS), None])
def test_a_part_that_was_complete_gets_its_name(remote: Remote, ckpt: Path, part: Path, size: int | None) -> None:
    remote.size = size
    part.write_bytes(WEIGHTS)
    call(main)
    assert ckpt.read_bytes() == WEIGHTS
    assert not part.exists()


def test_a_server_that_only_sends_whole_files_does_no_harm(remote: Remote, ckpt: Path, part: Path) -> None:
    remote.ranges = False
    part.write_bytes(WEIGHTS[:120_000])
    call(main)
    assert ckpt.read_bytes() == WEIGHTS


@pytest.mark.parametrize(("status", "words"), [(429, "too many requests"), (503, "answered HTTP 503")])
def test_a_server_in_trouble_is_asked_again(
    remote: Remote, ckpt: Path, naps: list[float], status: int, words: str
) -> None:
    remote.statuses = [status] * 2
    call(main)
    assert ckpt.read_bytes() == WEIGHTS
    assert len(naps) == 2
    ckpt.unlink()
    remote.statuses = [status] * 100
    refused(main, words, "(HF_ENDPOINT is set")


def test_404_is_told_and_not_tried_again(hub: Hub, ckpt: Path, naps: list[float]) -> None:
    del hub.files[URL]
    ckpt.write_bytes(b"an older one")
    refused(main, f"{ckpt} is not the right file", f"there is no {hub.url}{URL} (HTTP 404)", "HF_ENDPOINT")
    assert ckpt.read_bytes() == b"an older one"
    assert not naps


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_tells_what_to_do(remote: Remote, tmp_path: Path, status: int) -> None:
    page = "https://huggingface.co/CompVis/stable-diffusion-v-1-4-original"
    remote.statuses = [status] * 2
    refused(main, f"{page}\n", "https://huggingface.co/settings/tokens", "HF_TOKEN=hf_...", "hf auth login")
    (tmp_path / "token").write_text("hf_without_access")  # of `hf auth login`
    refused(main, "does not let your token read", f"accepted the licence on {page}?")


def test_the_token_opens_a_gated_repository_and_stays_with_the_hub(
    hub: Hub, remote: Remote, ckpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with serve() as store:
        store.add(URL, WEIGHTS).breaks = [120_000]
        remote.token, remote.store = "hf_right", f"http://localhost:{store.port}"
        call(main)
    assert ckpt.read_bytes() == WEIGHTS
    assert {authorization for *_, authorization in hub.requests} == {"Bearer hf_right"}
    assert {authorization for *_, authorization in store.requests} == {None}
    assert store.fetched(URL) == [None, "bytes=120000-"]


@pytest.mark.parametrize("token", ["hf right", "hf_\u2019", "hf\x1b"])
def test_a_token_with_a_stray_character_is_not_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    refused(main, "HF_TOKEN", "letters, digits and _ only")
    assert not hub.requests


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://hub", "https://h\u00fcb", "http://[hub"])
def test_an_endpoint_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    ask(endpoint, monkeypatch)
    refused(main, "HF_ENDPOINT should be an address such as https://huggingface.co")


@pytest.mark.parametrize("who", ["hub", "store"])
def test_a_host_that_is_not_there_is_named(
    remote: Remote, ckpt: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float], who: str
) -> None:
    address = f"localhost:{free_port()}"
    remote.store = f"http://{address}"
    if who == "hub":
        ask(f"http://{address}", monkeypatch)
    refused(main, f"connection to {address} failed", "Is there a network?", "HF_ENDPOINT=https://<mirror>")
    assert sum(naps) >= 30
    assert not ckpt.exists()


@pytest.mark.usefixtures("fresh_connections")
@pytest.mark.parametrize("proxy", ["http://[", "ftp://127.0.0.1"])
def test_a_proxy_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, ckpt: Path, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    refused(main, "proxy")
    assert not ckpt.exists()


def test_a_certificate_that_is_not_trusted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    command = ["openssl", "req", *kind, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    with serve((certificate, key)) as proxy:
        ask(f"https://localhost:{proxy.port}", monkeypatch)
        refused(main, f"the certificate of localhost:{proxy.port} was not accepted", "SSL_CERT_FILE")


@pytest.mark.parametrize("content", [WRONG, b"<html>Please log in to the network</html>"])
def test_wrong_bytes_never_get_the_name(remote: Remote, ckpt: Path, part: Path, content: bytes) -> None:
    remote.content, remote.size = content, len(content)
    refused(main, "not the right file", sha256(WEIGHTS), sha256(content), "Run this again to begin anew")
    assert not ckpt.exists()
    assert not part.exists()


@pytest.mark.parametrize("size", [50_000, len(WEIGHTS), 400_000])
def test_a_part_of_other_bytes_is_found_out(ckpt: Path, part: Path, size: int) -> None:
    part.write_bytes(bytes(size))
    if size <= len(WEIGHTS):  # a larger one is not even continued
        refused(main, "not the right file")
        assert not ckpt.exists()
    call(main)
    assert ckpt.read_bytes() == WEIGHTS


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """Return the checkpoint's place in the Hub's cache."""
    repository = tmp_path / "cache" / "models--CompVis--stable-diffusion-v-1-4-original"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    return repository / "snapshots" / ("a" * 40) / "sd-v1-4.ckpt"


@pytest.mark.usefixtures("offline")
def test_what_is_in_the_hubs_cache_is_copied(hub: Hub, ckpt: Path, cached: Path) -> None:
    cached.write_bytes(WEIGHTS)
    assert f"copied from the Hub's cache, {cached}" in call(main)
    assert ckpt.read_bytes() == cached.read_bytes() == WEIGHTS
    assert not hub.requests


def test_a_copy_without_room_is_not_reported(cached: Path, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached.write_bytes(WEIGHTS)
    monkeypatch.setattr(hub_files, "free_bytes", lambda path: 100_000)
    assert "copied" not in refused(main, "not enough room for sd-v1-4.ckpt: 300 kB")
    assert not part.exists()


def test_a_damaged_file_in_the_cache_is_not_taken(ckpt: Path, cached: Path) -> None:
    cached.write_bytes(WRONG)
    call(main)
    assert ckpt.read_bytes() == WEIGHTS


def test_too_little_room_is_noticed_before_the_download(
    hub: Hub, ckpt: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_files, "free_bytes", lambda path: 100_000)
    refused(main, "not enough room for sd-v1-4.ckpt: 300 kB are still to come, 100 kB are free", "SD_WEIGHTS_DIR")
    assert not hub.fetched(URL)
    part.write_bytes(WEIGHTS[:250_000])
    call(main)
    assert ckpt.read_bytes() == WEIGHTS


def test_a_disk_that_fills_up_is_told_and_the_part_kept(ckpt: Path, part: Path, naps: list[float]) -> None:
    with files_of_at_most(150_000):
        refused(main, f"could not write {ckpt}", "SD_WEIGHTS_DIR")
    assert not naps
    assert not ckpt.exists()
    assert part.read_bytes() == WEIGHTS[:150_000]


def test_a_place_that_is_no_good_is_told(hub: Hub, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ckpt.mkdir()
    refused(main, f"{ckpt} is a directory")
    (ckpt / "file").touch()
    monkeypatch.setenv("SD_WEIGHTS_DIR", str(ckpt / "file" / "weights"))
    refused(main, f"{ckpt / 'file'} is not a directory. Set SD_WEIGHTS_DIR")
    assert not hub.requests
    monkeypatch.setenv("SD_WEIGHTS_DIR", "/proc/weights")
    refused(main, "/proc/weights can't be created: ", "Set SD_WEIGHTS_DIR to a directory that you may write in")


@pytest.mark.parametrize("what", ["offline", "no network", "no store", "wrong bytes"])
def test_what_brings_nothing_leaves_no_directory(
    what: str, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SD_WEIGHTS_DIR", str(tmp_path / "new" / "weights"))
    if what == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif what == "no network":
        ask(f"http://localhost:{free_port()}", monkeypatch)
    elif what == "no store":
        remote.store = f"http://localhost:{free_port()}"
    else:
        remote.content = WRONG
    refused(main, "again")
    assert not (tmp_path / "new").exists()

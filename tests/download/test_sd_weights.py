"""download/sd-weights.sh against a server that breaks off, lies, refuses and redirects."""

from __future__ import annotations

import hashlib
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote

SCRIPT = "sd-weights.sh"
TOKENIZER = Path(__file__).parents[1] / "fixtures" / "oracle" / "clip-tokenizer"

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


# --- what it brings ---------------------------------------------------------------------------------------------------


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


# --- broken off -------------------------------------------------------------------------------------------------------


def test_a_broken_download_goes_on_where_it_broke_off(checkout: Checkout, hub: Hub, remote: Remote, ckpt: Path) -> None:
    remote.breaks = [120_000]
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS
    assert [r.range for r in hub.gets("sd-v1-4.ckpt")] == [None, "bytes=120000-"]


def test_what_an_earlier_run_left_is_continued(checkout: Checkout, hub: Hub, ckpt: Path) -> None:
    part(ckpt).write_bytes(WEIGHTS[:77_777])
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS
    assert [r.range for r in hub.gets("sd-v1-4.ckpt")] == ["bytes=77777-"]


def test_it_keeps_trying_as_long_as_each_attempt_brings_something(
    checkout: Checkout, remote: Remote, ckpt: Path
) -> None:
    remote.breaks = [20_000] * 9
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS
    assert checkout.sleeps() == [2] * 9


def test_it_gives_up_when_nothing_more_comes_and_keeps_what_came(
    checkout: Checkout, remote: Remote, ckpt: Path
) -> None:
    remote.breaks = [120_000] + [0] * 20
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "keeps breaking off" in result.stderr
    assert "the same command goes on from there" in result.stderr
    assert checkout.sleeps() == [2, 4, 8, 16]
    assert part(ckpt).read_bytes() == WEIGHTS[:120_000]
    assert not ckpt.exists()


def test_a_server_that_cannot_send_the_rest_sends_all_again(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    remote.ranges = False
    remote.breaks = [120_000]
    result = checkout.run(SCRIPT)
    assert result.returncode == 0, result.stderr
    assert "starting over" in result.stderr
    assert ckpt.read_bytes() == WEIGHTS


def test_a_server_that_never_gets_further_is_given_up(checkout: Checkout, hub: Hub, remote: Remote, ckpt: Path) -> None:
    remote.ranges = False
    remote.breaks = [120_000] * 50
    assert checkout.run(SCRIPT).returncode == 1
    assert not ckpt.exists()
    assert len(hub.gets("sd-v1-4.ckpt")) < 10


def test_a_part_that_was_complete_is_verified_and_put_in_place(checkout: Checkout, hub: Hub, ckpt: Path) -> None:
    part(ckpt).write_bytes(WEIGHTS)
    result = checkout.run(SCRIPT)
    assert result.returncode == 0, result.stderr
    assert ckpt.read_bytes() == WEIGHTS
    assert not part(ckpt).exists()
    assert [r.range for r in hub.gets("sd-v1-4.ckpt")] == [f"bytes={len(WEIGHTS)}-"]


def test_a_server_in_trouble_is_asked_again(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    remote.statuses = [503, 429]
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS
    assert checkout.sleeps() == [2, 4]


def test_too_many_requests_say_so(checkout: Checkout, remote: Remote) -> None:
    remote.statuses = [429] * 20
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "too many requests" in result.stderr


# --- the wrong bytes --------------------------------------------------------------------------------------------------


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


# --- refused ----------------------------------------------------------------------------------------------------------


def test_404_names_the_url_and_the_endpoint_and_is_not_tried_again(checkout: Checkout, hub: Hub, ckpt: Path) -> None:
    del hub.files[V1_4_URL]
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert f"{hub.url}{V1_4_URL}" in result.stderr
    assert "HF_ENDPOINT" in result.stderr
    assert len(hub.gets("sd-v1-4.ckpt")) == 1
    assert not ckpt.exists()
    assert not part(ckpt).exists()


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_tells_where_to_accept_and_how_to_pass_a_token(
    checkout: Checkout, remote: Remote, directory: Path, status: int
) -> None:
    remote.statuses = [status]
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "https://huggingface.co/CompVis/stable-diffusion-v-1-4-original\n" in result.stderr
    assert "https://huggingface.co/settings/tokens" in result.stderr
    assert "HF_TOKEN=" in result.stderr


def test_a_token_that_is_not_accepted_is_told_apart_from_none(
    checkout: Checkout, remote: Remote, directory: Path
) -> None:
    remote.token = "hf_right"
    result = checkout.run(SCRIPT, HF_TOKEN="hf_wrong")
    assert result.returncode == 1
    assert "does not let HF_TOKEN read" in result.stderr
    assert "hf_wrong" not in result.stderr


def test_the_right_token_opens_a_gated_repository(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    remote.token = "hf_right"
    assert checkout.run(SCRIPT, HF_TOKEN="hf_right").returncode == 0
    assert ckpt.read_bytes() == WEIGHTS


@pytest.mark.parametrize("token", ["hf_right\n", 'hf"', "hf right"])
def test_a_token_with_a_stray_character_is_refused_before_it_is_sent(checkout: Checkout, hub: Hub, token: str) -> None:
    result = checkout.run(SCRIPT, HF_TOKEN=token)
    assert result.returncode == 1
    assert "HF_TOKEN holds" in result.stderr
    assert not hub.requests


def test_the_token_stays_with_the_hub_when_it_redirects_to_another_host(
    checkout: Checkout, hub: Hub, elsewhere: Hub, remote: Remote, ckpt: Path
) -> None:
    remote.token = "hf_right"
    remote.redirect = f"http://localhost:{elsewhere.port}/store"
    elsewhere.files["/store"] = Remote(WEIGHTS, breaks=[120_000])
    assert checkout.run(SCRIPT, HF_TOKEN="hf_right").returncode == 0
    assert ckpt.read_bytes() == WEIGHTS
    assert {r.authorization for r in hub.requests} == {"Bearer hf_right"}
    assert {r.authorization for r in elsewhere.requests} == {None}
    assert [r.range for r in elsewhere.gets("/store")] == [None, "bytes=120000-"]


def test_the_token_is_on_no_command_line(checkout: Checkout, hub: Hub, remote: Remote, directory: Path) -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc")
    remote.hold_after = 1000
    process = checkout.start(SCRIPT, HF_TOKEN="hf_secret")
    assert remote.holding.wait(10)
    lines = command_lines()
    remote.released.set()
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert any("curl" in line and V1_4_URL in line for line in lines)
    assert not any("hf_secret" in line for line in lines)
    assert hub.gets("sd-v1-4.ckpt")[0].authorization == "Bearer hf_secret"


def command_lines() -> list[str]:
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return lines


# --- no network -------------------------------------------------------------------------------------------------------


def test_a_host_that_refuses_is_named_and_a_mirror_suggested(checkout: Checkout) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    result = checkout.run(SCRIPT, HF_ENDPOINT=f"http://{address}")
    assert result.returncode == 1
    assert f"cannot reach {address}" in result.stderr
    assert "HF_ENDPOINT=https://<mirror>" in result.stderr
    assert checkout.sleeps() == [2, 4, 8, 16]


def test_the_store_behind_a_redirect_is_named_when_it_cannot_be_reached(
    checkout: Checkout, hub: Hub, remote: Remote, directory: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"localhost:{unused.getsockname()[1]}"
    remote.redirect = f"http://{address}/store"
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert f"cannot reach {address}" in result.stderr


def test_an_endpoint_that_is_no_url_is_refused(checkout: Checkout) -> None:
    result = checkout.run(SCRIPT, HF_ENDPOINT="huggingface.co")
    assert result.returncode == 1
    assert "HF_ENDPOINT must start with https://" in result.stderr


# --- no room ----------------------------------------------------------------------------------------------------------


def leave_room(checkout: Checkout, kibibytes: int) -> None:
    """Put a `df` in front of the real one, which shows a disk with spaces in its names and so much room."""
    df = checkout.root / "bin" / "df"
    df.write_text(
        "#!/bin/sh\necho Filesystem 1024-blocks Used Available Capacity Mounted on\n"
        f"echo //me@server/a share 900000 800000 {kibibytes} 99% /mnt/a share\n"
    )
    df.chmod(0o755)


@pytest.mark.parametrize("told", ["by the hub", "by the store"])
def test_too_little_room_is_noticed_before_the_download(
    checkout: Checkout, hub: Hub, remote: Remote, ckpt: Path, told: str
) -> None:
    if told == "by the hub":
        remote.linked_size = 10**17
    else:
        leave_room(checkout, 100)
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "not enough room for sd-v1-4.ckpt" in result.stderr
    assert "SD_WEIGHTS_DIR" in result.stderr
    assert not hub.gets("sd-v1-4.ckpt")
    assert not part(ckpt).exists()


def test_a_part_counts_towards_the_room_that_is_needed(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    leave_room(checkout, 100)
    part(ckpt).write_bytes(WEIGHTS[:250_000])
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS


@contextmanager
def mounted(disk: Path, options: str) -> Iterator[None]:
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system with room for the tokenizer and half of the weights."""
    with mounted(tmp_path / "small disk", "size=1600k"):
        yield tmp_path / "small disk"


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "read-only disk", "ro"):
        yield tmp_path / "read-only disk"


def test_a_disk_that_fills_up_on_the_way_is_explained_and_the_part_kept(
    checkout: Checkout, remote: Remote, small_disk: Path
) -> None:
    remote.head = False
    result = checkout.run(SCRIPT, SD_WEIGHTS_DIR=str(small_disk))
    assert result.returncode == 1
    assert "the disk is full" in result.stderr
    assert "SD_WEIGHTS_DIR" in result.stderr
    kept = (small_disk / "sd-v1-4.ckpt.part").read_bytes()
    assert 0 < len(kept) < len(WEIGHTS)
    assert WEIGHTS.startswith(kept)


def test_a_place_that_cannot_be_written_to_is_explained(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    part(ckpt).symlink_to("/dev/full")
    result = checkout.run(SCRIPT)
    assert result.returncode == 1
    assert "cannot write" in result.stderr
    assert not checkout.sleeps()


def test_a_directory_that_is_read_only_is_explained(checkout: Checkout, hub: Hub, read_only_disk: Path) -> None:
    result = checkout.run(SCRIPT, SD_WEIGHTS_DIR=str(read_only_disk))
    assert result.returncode == 1
    assert f"cannot write to {read_only_disk}. Set SD_WEIGHTS_DIR" in result.stderr
    assert not hub.requests


def test_a_directory_that_cannot_be_made_is_explained(checkout: Checkout, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = checkout.run(SCRIPT, SD_WEIGHTS_DIR=str(tmp_path / "file" / "weights"))
    assert result.returncode == 1
    assert "Set SD_WEIGHTS_DIR" in result.stderr
    assert not hub.requests


# --- interrupted, and two at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_an_interruption_keeps_the_part_and_stops_curl(
    checkout: Checkout, hub: Hub, remote: Remote, ckpt: Path, how: str
) -> None:
    remote.hold_after = 120_000
    process = checkout.start(SCRIPT)
    assert remote.holding.wait(10)
    while not (part(ckpt).exists() and part(ckpt).stat().st_size):  # sent is not yet written
        time.sleep(0.01)
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    _, stderr = process.communicate(timeout=10)  # returns only when nobody, curl included, holds stderr open
    assert process.returncode == (130 if how == "Ctrl-C" else 143)
    assert "goes on from there" in stderr
    kept = part(ckpt).read_bytes()
    assert 0 < len(kept) <= 120_000
    assert not list((checkout.root / "tmp").iterdir())

    remote.hold_after = None
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS
    assert hub.gets("sd-v1-4.ckpt")[-1].range == f"bytes={len(kept)}-"


def test_a_second_run_at_the_same_time_is_turned_away(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    if shutil.which("flock") is None:
        pytest.skip("needs flock")
    remote.hold_after = 1000
    first = checkout.start(SCRIPT)
    assert remote.holding.wait(10)
    second = checkout.run(SCRIPT)
    remote.released.set()
    first.communicate(timeout=10)
    assert second.returncode == 1
    assert "another download" in second.stderr
    assert first.returncode == 0
    assert ckpt.read_bytes() == WEIGHTS


def test_a_run_that_was_killed_locks_nobody_out(checkout: Checkout, remote: Remote, ckpt: Path) -> None:
    remote.hold_after = 1000
    process = checkout.start(SCRIPT)
    assert remote.holding.wait(10)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    remote.hold_after = None
    assert checkout.run(SCRIPT).returncode == 0
    assert ckpt.read_bytes() == WEIGHTS


# --- what is seen -----------------------------------------------------------------------------------------------------


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

"""download/sd-weights.sh: a server that refuses, redirects or cannot be reached."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote
from tests.download.sd_weights.conftest import SCRIPT, V1_4_URL, WEIGHTS, part


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

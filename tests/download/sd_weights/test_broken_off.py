"""download/sd-weights.sh: a server that breaks off, an interruption, and two downloads at once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote
from tests.download.sd_weights.conftest import SCRIPT, WEIGHTS, part


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

"""download/sd-weights.sh: disks that are full or can't be written to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.download.conftest import Checkout
from tests.download.hub_server import Hub, Remote
from tests.download.sd_weights.conftest import SCRIPT, WEIGHTS, part


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

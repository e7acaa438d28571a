"""Fixtures of the download tests: a hub on this machine, and the real scripts in a directory of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.download.hub_server import Hub, serve

SCRIPTS = Path(__file__).parents[2] / "download"


def heed_ctrl_c() -> None:
    """What runs in a shell's background ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Checkout:
    """A copy of `download/` in an otherwise empty project. Its `sleep` returns at once and keeps a record."""

    root: Path
    env: dict[str, str]

    def start(self, script: str, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start a script from a directory that is not the project's."""
        return subprocess.Popen(
            ["bash", str(self.root / "download" / script), *args],
            cwd=self.root.parent,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a test can send a signal to the whole group, as Ctrl-C does
            preexec_fn=heed_ctrl_c,
        )

    def run(self, script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a script to its end."""
        process = self.start(script, *args, **env)
        stdout, stderr = process.communicate(timeout=30)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def put_in_place_of(self, old: str, new: str, script: str) -> None:
        """Give the copy of `script` another constant."""
        path = self.root / "download" / script
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def sleeps(self) -> list[int]:
        """Return the seconds that the scripts have waited before they tried again."""
        record = self.root / "sleeps"
        return [int(line) for line in record.read_text().split()] if record.exists() else []


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def elsewhere() -> Iterator[Hub]:
    """Yield a second server, which a redirect can lead to."""
    with serve() as hub:
        yield hub


@pytest.fixture
def checkout(tmp_path: Path, hub: Hub) -> Checkout:
    if shutil.which("bash") is None or shutil.which("curl") is None:
        pytest.skip("needs bash and curl")
    root = tmp_path / "a project"
    shutil.copytree(SCRIPTS, root / "download")
    (root / "bin").mkdir()
    sleep = root / "bin" / "sleep"
    sleep.write_text('#!/bin/sh\necho "$1" >>"$(dirname "$0")/../sleeps"\n')
    sleep.chmod(0o755)
    (root / "tmp").mkdir()
    env = {
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(root / "tmp"),
        "HF_ENDPOINT": hub.url,
    }
    return Checkout(root, env)

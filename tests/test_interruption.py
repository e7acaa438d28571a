"""Signals to a process: its work is finished or interrupted, and the exit status shows that it was stopped."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm.files import ROOT
from ldm.interruption import SIGNALS, STATUS, Stopped, blocked, finish_first, handled_signals

FRAME = """
import logging, os, sys, threading, time
from pathlib import Path
from ldm.interruption import Stopped, before_the_end, finish_first, install_handlers
from ldm.interruption import set_resume_command, unblock_signals
logging.basicConfig(format="%(message)s", level=logging.INFO, handlers=[logging.FileHandler("said")])
install_handlers()
try:
    unblock_signals()
{body}
    Path("done").touch()
except Stopped as stop:
    Path("stopped").write_text(str(stop))
    {then}
    sys.exit(75)
"""


class Script:
    """A small command in a process of its own; `body` touches `ready` when a signal may come."""

    def __init__(self, directory: Path, body: str, then: str = "pass") -> None:
        self.directory = directory
        script = directory / "script.py"
        script.write_text(FRAME.format(body="\n".join(f"    {line}" for line in body.splitlines()), then=then))
        self.process = subprocess.Popen(
            [sys.executable, script], cwd=directory, env={"PYTHONPATH": str(ROOT)}, preexec_fn=_default_signals
        )
        self.wait_for("ready")

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 60
        while not (self.directory / name).exists():
            assert self.process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()


def _default_signals() -> None:
    """The tests may run in a shell's background, where Ctrl-C is ignored."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_breaks_off_what_can_be_done_again(number: signal.Signals, tmp_path: Path) -> None:
    script = Script(tmp_path, 'Path("ready").touch()\ntime.sleep(60)')
    script.process.send_signal(number)
    assert script.process.wait(30) == STATUS
    assert script.read("stopped") == f"stopped by {number.name}"
    assert not (tmp_path / "done").exists()


FINISHING = """
with finish_first("stopping after this step") as request:
    Path("ready").touch()
    while not request.is_made:
        time.sleep(0.01)
    time.sleep(0.2)
    Path("finished").touch()
    request.after = "update 3"
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_what_should_be_finished_first_is(number: signal.Signals, tmp_path: Path) -> None:
    script = Script(tmp_path, FINISHING)
    script.process.send_signal(number)
    assert script.process.wait(30) == STATUS
    assert (tmp_path / "finished").exists()
    assert script.read("stopped") == f"stopped by {number.name} after update 3"
    assert script.read("said") == f"{number.name}: stopping after this step\n"


def test_signals_that_come_together_are_one(tmp_path: Path) -> None:
    """As when a terminal closes: its shell and the system both send one."""
    script = Script(tmp_path, FINISHING)
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        script.process.send_signal(number)
    assert script.process.wait(30) == STATUS
    assert (tmp_path / "finished").exists()


WAITING_FOR_A_DEVICE = """
import ctypes
import threading
mutex = ctypes.create_string_buffer(64)
threading.Timer(0.5, Path("ready").touch).start()  # not before the main thread waits
for _ in range(2):  # the second call never returns, not even for a signal
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "then"),
    [
        ('with finish_first():\n    Path("ready").touch()\n    time.sleep(60)', "pass"),
        ('Path("ready").touch()\ntime.sleep(60)', "time.sleep(60)"),
        pytest.param(WAITING_FOR_A_DEVICE, "pass", marks=pytest.mark.skipif(sys.platform != "linux", reason="glibc's")),
    ],
    ids=["a block that never ends", "an end that takes long", "a call that doesn't return"],
)
def test_a_second_signal_ends_it_at_once_with_the_same_status(body: str, then: str, tmp_path: Path) -> None:
    before = (
        "from ldm import interruption\ninterruption.ONE_REQUEST = 0.1\n"
        'set_resume_command("python x.py -r y")\nending = before_the_end(Path("cleared").touch)\nending.__enter__()\n'
    )
    script = Script(tmp_path, before + body, then)
    script.process.send_signal(signal.SIGTERM)
    time.sleep(0.4)  # signals within a tenth of a second are one
    script.process.send_signal(signal.SIGUSR1)
    assert script.process.wait(10) == STATUS
    assert (tmp_path / "cleared").exists()
    assert "SIGUSR1 came again: stopped at once; continue with\n  python x.py -r y" in script.read("said")


def test_a_signal_that_comes_before_the_command_is_ready_waits_for_it(tmp_path: Path) -> None:
    """As to a process that was started a moment ago."""
    with pytest.raises(Stopped), blocked():
        signal.raise_signal(signal.SIGTERM)
        with handled_signals():
            raise AssertionError("it goes on")


def test_what_a_shell_told_it_to_ignore_is_ignored(tmp_path: Path) -> None:
    """`nohup` means that a closed terminal doesn't matter."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Stopped), handled_signals():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_blocks_in_a_block_end_together() -> None:
    order = []
    with pytest.raises(Stopped, match="stopped by SIGTERM after all"), handled_signals(), finish_first() as outer:
        with finish_first():
            signal.raise_signal(signal.SIGTERM)
        order.append("inner")
        outer.after = "all"
    assert order == ["inner"]

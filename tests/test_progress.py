"""Progress: a bar on a terminal, plain lines elsewhere, and neither of them may end the work."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ldm import progress
from ldm.files import ROOT
from ldm.progress import Progress, each


def test_where_there_is_no_terminal_lines_come_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", logger="ldm")
    clock = iter([0.0, *(10.0 * step for step in range(1, 100))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress(10, "training", "step", done=2) as bar:
        for step in range(3, 10):
            bar.note(loss=f"{step / 10}")
            bar.update()
    assert caplog.messages == [
        "training: 5 of 10, 00:40 so far, 13.33 s/step, 01:06 left, loss=0.5",
        "training: 8 of 10, 01:20 so far, 13.33 s/step, 00:26 left, loss=0.8",
        "training: 9 of 10, 01:40 so far, 14.29 s/step, 00:14 left, loss=0.9",
    ]
    assert capsys.readouterr().err == ""


def test_what_was_done_before_is_no_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ldm")
    with Progress(4, "training", "step", done=4), Progress(9, "denoising", "step", inner=True) as inner:
        inner.update(9)
    assert list(each([], 0, "encoding", "img")) == []
    assert list(each("ab", 2, "encoding", "img", silent=True)) == ["a", "b"]
    assert caplog.messages == []


def test_a_notebook_shows_the_outer_bar_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(2, "training", "step") as outer, Progress(9, "denoising", "step", inner=True) as inner:
        inner.update(9)
        outer.update()
    assert "training:  50%" in stream.getvalue()
    assert "denoising" not in stream.getvalue()


FRAME = """
import logging, sys, time
from ldm import progress
from ldm.commands.app import begin_run, launch
from pathlib import Path
progress.LINE_EVERY = 0.0
log = logging.getLogger("ldm.x")

def command():
    begin_run(Path("."), "python x.py -r .")
    with (
        progress.Progress(30, "sampling", "img") as bar,
        progress.Progress(5, "denoising", "step", inner=True) as steps,
    ):
        for image in range(30):
            time.sleep(0.01)
            steps.update()
            bar.update()
            if image == 15:
                log.warning("a file is left out")
                import warnings
                warnings.warn("the library is old")
            if not sys.stderr.isatty():
                print("out", image)
    Path("done").touch()

launch(command)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "x.py").write_text(FRAME)
    return tmp_path / "x.py"


def on_terminal(script: Path, leave: bool = False) -> tuple[str, int]:
    """What a command writes to a terminal, and its status; `leave`: the terminal is gone after a while."""
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (24, 100))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, script], cwd=script.parent, stdout=other_end, stderr=other_end, env=environment
    )
    os.close(other_end)
    shown_text = b""
    try:
        while chunk := os.read(terminal, 1000):
            shown_text += chunk
            if leave and b"sampling" in shown_text:
                break
    except OSError:  # the other end is closed
        assert not leave
    os.close(terminal)
    return shown_text.decode(), process.wait(60)


def test_on_a_terminal_there_is_a_bar_and_warnings_have_lines_of_their_own(script: Path) -> None:
    shown_text, status = on_terminal(script)
    assert status == 0
    assert re.search(r"sampling: +\d+%\|.*\| \d+/30 \[\d\d:\d\d, \d\d:\d\d left, [\d.]+img/s\]", shown_text)
    shown = [line.rsplit("\r", 1)[-1].removeprefix("\x1b[A") for line in shown_text.replace("\r\n", "\n").split("\n")]
    assert "warning: a file is left out" in shown
    assert any(line.startswith("warning: the library is old (UserWarning, ") for line in shown)
    assert "so far" not in shown_text
    log = (script.parent / "run.log").read_text()
    assert "INFO sampling: 16 of 30, " in log
    assert "WARNING a file is left out" in log
    assert "denoising" not in log


def test_a_terminal_that_goes_away_ends_nothing(script: Path) -> None:
    """Its signal does, unless `nohup` keeps it away, as here; what is written goes nowhere."""
    assert on_terminal(script, leave=True)[1] == 0
    assert (script.parent / "done").exists()
    assert "sampling: 30 of 30" in (script.parent / "run.log").read_text()


@pytest.mark.parametrize("both", [True, False], ids=["2>&1 | head -1", "| head -1"])
def test_a_reader_that_goes_away_ends_nothing(both: bool, script: Path) -> None:
    (script.parent / "err").touch()
    with (script.parent / "err").open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", script],
            cwd=script.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else file,
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        status = process.wait(60)
    if both:
        assert status == 0
        assert (script.parent / "done").exists()
        assert "sampling: 30 of 30" in (script.parent / "run.log").read_text()
    assert "Exception ignored" not in (script.parent / "err").read_text()


def test_lines_are_plain_where_there_is_no_terminal(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, script], cwd=script.parent, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.returncode == 0
    assert b"\r" not in done.stderr
    assert b"sampling: 30 of 30, " in done.stderr

"""How commands end: the exit status, the last line on the terminal and in the run's log, and that log."""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldm.commands.app import begin_run, run
from ldm.commands.dreambooth import run as dreambooth
from ldm.commands.sampling import run as sampling
from ldm.errors import UserError
from ldm.files import ROOT
from tests.commands.calls import Outcome, call
from tests.full_disk import files_of_at_most


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


def signalling(number: int) -> Callable[..., Any]:
    def send(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        raise AssertionError("it continues")

    return send


Command = Callable[[], Outcome]


@pytest.fixture(params=["dreambooth", "txt2img"])
def command(request: pytest.FixtureRequest, subject_dir: Path, tiny_checkpoint: Path) -> Command:
    """A command that makes its run directory below `my out`."""
    words: tuple[object, ...] = ("-c", tiny_checkpoint, "-v", 1, "-p", "a can", "-o", "my out")
    if request.param == "dreambooth":
        words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", "my out", "--class-img-count", 0)
    return lambda: call(request.param, *words)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Replaces what computes."""

    def replace(function: Callable[..., Any]) -> None:
        monkeypatch.setattr(dreambooth, "build_module", function)
        monkeypatch.setattr(sampling, "sample_rows", function)

    return replace


def log_of() -> str:
    """The log of the only run."""
    (path,) = Path("my out").glob("*/run.log")
    return path.read_text()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_users_error_is_the_last_line_of_the_log(command: Command, work: Any) -> None:
    work(raising(UserError("the disk is full")))
    outcome = command()
    assert outcome.status == 2
    assert outcome.said.endswith("error: the disk is full\n")
    assert log_of().endswith("ERROR error: the disk is full\n")


def test_a_directory_without_permission_is_named(command: Command, work: Any) -> None:
    work(raising(PermissionError(errno.EACCES, "Permission denied", "theirs/run.yaml")))
    outcome = command()
    assert outcome.status == 2
    assert outcome.said.endswith("error: theirs/run.yaml: Permission denied\n")


def test_an_unexpected_error_is_in_the_log_with_its_traceback(command: Command, work: Any) -> None:
    work(raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        command()
    log = log_of()
    assert "CRITICAL unexpected error\nTraceback (most recent call last):\n" in log
    assert log.endswith("ZeroDivisionError: a bug\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_each_signal_is_logged_with_the_command_that_resumes(
    number: signal.Signals, command: Command, work: Any
) -> None:
    work(signalling(number))
    outcome = command()
    assert outcome.status == 75
    (directory,) = Path("my out").iterdir()
    script = "dreambooth" if directory.name == "can-1" else "txt2img"
    words = f"stopped by {number.name}; continue with\n  python {script}.py -r '{directory}'\n"
    assert outcome.said.endswith(words)
    assert log_of().endswith(f"ERROR {words}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_there_is_a_run(
    number: signal.Signals, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.commands.dreambooth.plan.hash_file", signalling(number))
    monkeypatch.setattr("ldm.commands.sampling.planning.job_from", signalling(number))
    outcome = command()
    assert outcome.status == 75
    assert outcome.said.endswith(f"stopped by {number.name}; nothing was begun\n")
    assert not Path("my out").exists()


def test_a_run_that_begins_while_a_signal_comes_can_be_resumed(
    command: Command, monkeypatch: pytest.MonkeyPatch, work: Any
) -> None:
    """Its directory is not left without its record."""
    from ldm.commands import resuming

    make = resuming.make_numbered_dir

    def interrupted(*arguments: Any) -> Path:
        directory = make(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return directory

    monkeypatch.setattr(resuming, "make_numbered_dir", interrupted)
    work(raising(AssertionError("it continues")))
    outcome = command()
    assert outcome.status == 75
    (directory,) = Path("my out").iterdir()
    assert f"-r '{directory}'" in outcome.said
    assert (directory / "run.yaml").exists()


CLOSED = 'exec "$@" <&- >&- 2>&-'
FIRST_FREE = """
import os, sys
from ldm.commands.app import launch

def command():
    print("nobody reads this")
    print("nor this", file=sys.stderr)
    sys.stdin.read()
    with open(sys.argv[1], "wb") as file:
        file.write(b"%d" % file.fileno())
    os.write(2, b"as a library does")

launch(command)
"""


def test_a_command_whose_standard_streams_are_closed_writes_into_no_file_of_its_own(tmp_path: Path) -> None:
    words = "sh", "-c", CLOSED, "sh", sys.executable, "-c", FIRST_FREE, str(tmp_path / "file")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(words, env=environment, timeout=60, check=False).returncode == 0
    assert int((tmp_path / "file").read_bytes()) > 2


logger = logging.getLogger("ldm.tests")


def test_a_log_file_that_can_not_be_written_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.log"

    def command() -> None:
        begin_run(tmp_path, "")
        logger.info("first")
        with files_of_at_most(path.stat().st_size + 2):
            logger.info("second")
            logger.info("third")
        logger.info("fourth \udce9")

    assert run(command) == 0
    output = capsys.readouterr().err.splitlines()
    assert [output[0], output[1], output[3]] == ["first", "second", "third"]
    assert output[2].startswith(f"warning: could not write {path}: File too large")
    assert "fourth" in path.read_text()


def test_a_log_file_that_can_not_be_opened_is_a_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.log").mkdir()
    assert run(lambda: begin_run(tmp_path, "")) == 2
    assert "run.log: Is a directory" in capsys.readouterr().err

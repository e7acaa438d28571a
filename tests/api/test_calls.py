"""A command that Python calls leaves nothing behind, and can be interrupted."""

import logging
import os
import signal
import sys
import threading

import pytest

from ldm.api.calls import command_call, shown_messages
from ldm.errors import UserError
from ldm.interruption import SIGNALS, finish_first, set_resume_command

log = logging.getLogger("ldm.somewhere")


def forget_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that has not set up logging. Within a test, as pytest adds handlers when one begins."""
    monkeypatch.setattr(logging.getLogger("ldm"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("ldm"), "handlers", [])


def state() -> object:
    package = logging.getLogger("ldm")
    return [signal.getsignal(one) for one in SIGNALS], sys.argv, package.level, list(package.handlers)


@pytest.mark.usefixtures("interruptible")
def test_handlers_arguments_and_the_log_are_put_back_also_after_an_error() -> None:
    before = state()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    try:
        with pytest.raises(UserError, match="no"), command_call("txt2img.py", ["-v", "1"]):
            assert sys.argv == ["txt2img.py", "-v", "1"]
            logging.getLogger("ldm").setLevel(logging.INFO)
            raise UserError("no")
        assert signal.set_wakeup_fd(-1) == writer  # an event loop's
    finally:
        os.close(reader)
        os.close(writer)
    assert state() == before


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_for_what_must_be_finished_and_says_how_to_continue() -> None:
    done = []
    with (
        pytest.raises(KeyboardInterrupt, match=r"stopped by SIGINT after update 3; continue with\n  python x -r y"),
        command_call("dreambooth.py", []),
    ):
        set_resume_command("python x -r y")
        with finish_first() as request:
            signal.raise_signal(signal.SIGINT)
            request.after = "update 3"
            done.append("finished")
        done.append("not reached")
    assert done == ["finished"]


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_does_not_wait_and_does_not_end_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.interruption.ONE_REQUEST", 0.0)
    done = []
    with pytest.raises(KeyboardInterrupt), command_call("dreambooth.py", []), finish_first():
        signal.raise_signal(signal.SIGINT)
        done.append("goes on")
        signal.raise_signal(signal.SIGINT)
        done.append("not reached")
    assert done == ["goes on"]


def test_another_signal_then_does_what_it_did_before_the_call() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), command_call("dreambooth.py", []):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


def test_in_another_thread_no_signal_is_handled_and_a_second_call_at_the_same_time_is_refused() -> None:
    handlers = [signal.getsignal(one) for one in SIGNALS]
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with command_call("txt2img.py", []):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(60)
        assert [signal.getsignal(one) for one in SIGNALS] == handlers
        with pytest.raises(UserError, match="another fine_tune, compare or score is running"), command_call("x", []):
            pass
    finally:
        leave.set()
        thread.join()
    with command_call("txt2img.py", []):
        pass


def test_warnings_are_shown_once_and_their_text_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_logging(monkeypatch)
    for _ in range(2):
        with shown_messages(), shown_messages():
            log.warning("what %s", "\x1b[2Jnow")
            log.info("not this")
            log.error("raised, too")
    assert capsys.readouterr().err == "warning: what \\x1b[2Jnow\n" * 2


def test_logging_that_the_program_has_set_up_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_logging(monkeypatch)
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("ldm").addHandler(handler)
    with shown_messages():
        log.warning("once")
    assert capsys.readouterr().err == "once\n"

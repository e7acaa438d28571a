"""Several processes that share one command's work: they end together, and one of them reports why."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from textwrap import indent
from typing import Any

from ldm.errors import UserError
from ldm.interruption import (
    SIGNALS,
    STATUS,
    Stopped,
    before_the_end,
    blocked,
    end_at_once,
    ignore_signals,
    install_handlers,
    resume_command,
    resume_hint,
    set_resume_command,
    signal_name,
    unblock_signals,
)

RUN_DIR_VARIABLE = "LDM_RUN_DIR"
"""An environment variable: the run directory, for the processes of further devices."""
RANK_VARIABLE = "LOCAL_RANK"
"""An environment variable: a process's number. Other programs set it too: it counts only with the run directory."""

DIED = 1
"""The exit status after a process has died, and of any unexpected end."""

POLL_INTERVAL = 0.25
"""Seconds between two checks whether other processes are alive."""
PATIENCE = 20.0
"""Seconds that a process has for writing files after SIGTERM."""

Work = Callable[..., None]
"""`work(rank, send, *arguments)`: what each of several processes does."""


class ProcessDiedError(Exception):
    """One of several processes has ended in the middle of its work: killed by the system, or failed."""


def own_rank() -> int:
    """The number of this process in its run; 0 for the first or only one."""
    return int(os.environ.get(RANK_VARIABLE, 0)) if RUN_DIR_VARIABLE in os.environ else 0


def is_helper_process() -> bool:
    """Whether this process was started for a further device of a run."""
    return own_rank() != 0


def ending_of(exit_code: int) -> BaseException:
    """The error to raise when another process ends with this exit status, or minus a signal's number."""
    if exit_code == STATUS or -exit_code in SIGNALS:
        return Stopped(-exit_code if exit_code < 0 else signal.SIGTERM)
    if exit_code >= 0:
        return ProcessDiedError(f"another process of this run has failed with exit status {exit_code}, see above")
    why = "; was the memory full?" if -exit_code == getattr(signal, "SIGKILL", None) else ""
    return ProcessDiedError(f"a process has ended unexpectedly ({signal_name(-exit_code)}{why})")


def end_with_parent(reports: bool) -> None:
    """Ends this process soon after its parent has ended for whatever reason; with `reports` it prints an error."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_INTERVAL)
        message = f"error: the first process has ended unexpectedly; was the memory full? {resume_hint()}"
        end_at_once(DIED, message if reports else "")

    threading.Thread(target=watch, name="parent", daemon=True).start()


def run_together(work: Work, count: int, *arguments: Any, on_done: Callable[[int], None]) -> None:
    """Calls `work(rank, send, *arguments)` in `count` new processes; `on_done` gets the counts that they `send`.

    An error in one ends the others and is raised here: a `UserError` as it is, `Stopped` if it was stopped,
    `ProcessDiedError` otherwise. A signal to this process stops all.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[SpawnProcess, Connection] = {}

    def kill() -> None:
        for process in list(running):
            process.kill()

    with before_the_end(kill):
        try:
            for rank in range(count):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_run_work, args=(work, rank, theirs, arguments, resume_command()))
                with blocked():
                    process.start()
                    running[process] = ours
                theirs.close()
            while running:
                wait([*running.values(), *(process.sentinel for process in running)], timeout=POLL_INTERVAL)
                _poll(running, on_done)
        finally:
            _end(list(running))


def _poll(running: dict[SpawnProcess, Connection], on_done: Callable[[int], None]) -> None:
    """Receives messages and removes processes that have ended. Raises an error if one has failed."""
    for process, messages in list(running.items()):
        exit_code = process.exitcode
        _receive(messages, on_done)
        if exit_code is not None:
            messages.close()
            del running[process]
            if exit_code:
                raise ending_of(exit_code)


def _receive(messages: Connection, on_done: Callable[[int], None]) -> None:
    try:
        while messages.poll():
            match messages.recv():
                case ("done", count):
                    on_done(count)
                case ("mistake", words):
                    raise UserError(words)
                case ("failed", words):
                    raise ProcessDiedError(f"a process has failed:\n{indent(words.rstrip(), '  ')}")
    except (EOFError, ConnectionError):
        return  # it has ended; the exit code says why


def _end(processes: list[SpawnProcess]) -> None:
    """Terminates processes, and kills those that do not end in time."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
        process.join()


def _run_work(work: Work, rank: int, messages: Connection, arguments: tuple[Any, ...], command: str) -> None:
    set_resume_command(command)
    end_with_parent(reports=rank == 0)
    install_handlers()
    try:
        unblock_signals()
        _call_work(work, rank, messages, arguments)
    except Stopped:  # perhaps while an error was being sent
        os._exit(STATUS)
    ignore_signals()


def _call_work(work: Work, rank: int, messages: Connection, arguments: tuple[Any, ...]) -> None:
    try:
        work(rank, lambda count: messages.send(("done", count)), *arguments)
    except UserError as error:
        messages.send(("mistake", str(error)))
        os._exit(2)
    except Exception:
        messages.send(("failed", traceback.format_exc()))
        raise SystemExit(DIED) from None

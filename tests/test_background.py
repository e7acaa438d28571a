"""Work in threads: tasks in order, none after one that failed, all done when the block ends; results computed ahead."""

import threading
import time
import weakref
from pathlib import Path

import pytest

from ldm.background import BackgroundWriter, map_ahead
from ldm.errors import UserError


def fail() -> None:
    raise UserError("the disk is full")


def test_tasks_are_done_in_order_while_the_caller_goes_on() -> None:
    done: list[object] = []
    go_on = threading.Event()
    with BackgroundWriter() as writer:
        writer.put(lambda: done.append(go_on.wait(60)))
        for number in range(20):
            writer.put(lambda number=number: done.append(number))  # type: ignore[misc]
        assert done == []
        go_on.set()
    assert done == [True, *range(20)]


def test_waiting_returns_when_everything_is_done() -> None:
    done: list[int] = []
    with BackgroundWriter() as writer:
        for number in range(3):
            writer.put(lambda number=number: (time.sleep(0.01), done.append(number)))  # type: ignore[misc, func-returns-value]
        writer.wait()
        assert done == [0, 1, 2]


def test_nothing_is_done_after_a_task_that_failed() -> None:
    done: list[int] = []
    writer = BackgroundWriter()
    with pytest.raises(UserError, match="the disk is full"), writer:
        go_on = threading.Event()
        writer.put(lambda: (go_on.wait(60), fail()))  # type: ignore[arg-type, return-value, func-returns-value]
        writer.put(lambda: done.append(1))
        go_on.set()
    assert not done


@pytest.mark.parametrize("method", ["put", "wait", "raise_if_failed"])
def test_an_error_is_raised_by_the_next_call(method: str) -> None:
    writer = BackgroundWriter()
    writer.put(fail)
    assert writer._tasks[0].exception(60) is not None
    with pytest.raises(UserError, match="the disk is full"):
        getattr(writer, method)(*([lambda: None] if method == "put" else []))


def test_an_error_in_the_block_doesn_t_keep_files_from_being_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), BackgroundWriter() as writer:
        writer.put(lambda: (time.sleep(0.05), (tmp_path / "file").touch()))  # type: ignore[arg-type, return-value, func-returns-value]
        raise ValueError("mine")
    assert (tmp_path / "file").exists()


def test_of_two_errors_the_block_s_own_is_raised_and_the_other_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="mine"), BackgroundWriter() as writer:
        writer.put(fail)
        raise ValueError("mine")
    assert "the disk is full" in caplog.text


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_drops_tasks_that_have_not_begun(interrupt: type[BaseException]) -> None:
    go_on, begun, done = threading.Event(), threading.Event(), []
    writer = BackgroundWriter()
    with pytest.raises(interrupt), writer:
        writer.put(lambda: (begun.set(), go_on.wait(60), done.append(1)))  # type: ignore[arg-type, return-value, func-returns-value]
        writer.put(lambda: done.append(2))
        begun.wait(60)
        raise interrupt
    assert done == []
    go_on.set()
    writer._pool.shutdown()
    assert done == [1]


def test_what_a_task_holds_is_freed_when_it_is_done() -> None:
    class Snapshot:
        def write(self) -> None:
            pass

    with BackgroundWriter() as writer:
        held = Snapshot()
        gone = weakref.ref(held)
        writer.put(held.write)
        del held
        writer.wait()
        end = time.monotonic() + 60
        while gone() is not None:
            assert time.monotonic() < end
            time.sleep(0.001)


def test_with_a_bound_an_interrupt_waits_for_all_tasks() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), BackgroundWriter(threads=2, most_waiting=4) as writer:
        for number in range(4):
            writer.put(lambda number=number: (time.sleep(0.01), done.append(number)))  # type: ignore[misc, func-returns-value]
        raise KeyboardInterrupt
    assert sorted(done) == [0, 1, 2, 3]


def test_results_come_in_order_and_only_some_are_computed_ahead() -> None:
    begun: list[int] = []
    results = map_ahead(lambda item: begun.append(item) or -item, range(9), threads=3, ahead=2)
    assert next(results) == 0
    assert max(begun) <= 2
    assert list(results) == [-item for item in range(1, 9)]


def test_an_error_comes_in_its_turn_and_no_call_begins_after_it() -> None:
    begun: list[int] = []

    def call(item: int) -> int:
        begun.append(item)
        return 10 // (3 - item)

    results = map_ahead(call, range(100), threads=2, ahead=2)
    assert [next(results) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert max(begun) <= 6

"""Work in threads: files are written while the caller goes on, and results are computed before they are needed."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = Callable[[], None]


class BackgroundWriter:
    """Runs tasks in threads; with one thread in the order of the `put` calls. Used in a `with` block.

    After a failed task no other one starts. The next call of a method, or at the latest the end of the block, raises
    its error. When the block ends all tasks are done, also after an error. Only an interrupt (`KeyboardInterrupt`,
    `SystemExit`, `Stopped`) drops the tasks that have not started, if there is no `most_waiting`; the process then ends
    when the running task is done.
    """

    def __init__(self, threads: int = 1, most_waiting: int | None = None) -> None:
        self.most_waiting = most_waiting
        """`put` waits while so many tasks are not done. None: it never waits."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._tasks: deque[Future[None]] = deque()
        self._error: Exception | None = None

    def put(self, task: Task) -> None:
        """Returns at once, unless `most_waiting` tasks are not done. What the task holds is freed when it is done."""
        self.raise_if_failed()
        while self._tasks and (self._tasks[0].done() or len(self._tasks) == self.most_waiting):
            self._tasks.popleft().result()
        self._tasks.append(self._pool.submit(self._run, task))

    def wait(self) -> None:
        """Returns when all tasks are done."""
        while self._tasks:
            self._tasks.popleft().result()
        self.raise_if_failed()

    def raise_if_failed(self) -> None:
        """Raises the error of a task that failed."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interrupted = error is not None and not isinstance(error, Exception)
        drop = interrupted and self.most_waiting is None
        self._pool.shutdown(wait=not drop, cancel_futures=drop)
        if error is None:
            self.wait()
        elif not interrupted and self._error not in (None, error):
            log.error("%s", self._error)

    def _run(self, task: Task) -> None:
        if self._error is not None:
            return
        try:
            task()
        except Exception as error:
            self._error = self._error or error
            raise


class Cancelled(BaseException):
    """Nobody needs the result that this thread computes. Not an `Exception`, so that it isn't handled as an error."""


class CancellingPool(ThreadPoolExecutor):
    """Threads for one block. When it ends, no further call begins, and running ones end at `raise_if_cancelled`."""

    def __init__(self, threads: int, name: str, initializer: Callable[[], object] | None = None) -> None:
        self._cancelled = threading.Event()

        def begin() -> None:
            _this_thread.cancelled = self._cancelled
            if initializer is not None:
                initializer()

        super().__init__(threads, thread_name_prefix=name, initializer=begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cancelled.set()  # first: a second interrupt may end the waiting
        self.shutdown(wait=True, cancel_futures=True)


_this_thread = threading.local()


def raise_if_cancelled() -> None:
    """Raises `Cancelled` in a thread of a `CancellingPool` whose block has ended; call it before each long computation.

    In other threads it does nothing: there an interrupt raises its own exception.
    """
    cancelled: threading.Event | None = getattr(_this_thread, "cancelled", None)
    if cancelled is not None and cancelled.is_set():
        raise Cancelled


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    ahead: int,
    initializer: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """Yields `function(item)` for each item, in order; threads compute up to `ahead` results before they are needed.

    An error is raised in place of its item's result. After an error, and when the iterator is closed, no further call
    starts, and running ones are cancelled (`raise_if_cancelled`). Close the iterator (`contextlib.closing`) if not all
    results are taken: an interrupt may come between two of them. `initializer` is called first in each thread.
    """
    begun: deque[Future[Result]] = deque()
    with CancellingPool(threads, "ahead", initializer) as pool:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

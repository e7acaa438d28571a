"""A thread that writes files in the background: one after the other, in order, and none after one that failed."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

log = logging.getLogger(__name__)

Job = Callable[[], None]


class BackgroundWriter:
    """Runs jobs in order, in one thread.

    The end of the block waits for all jobs, also after an error. After an interrupt (`KeyboardInterrupt`, `SystemExit`)
    it waits for none and drops those that haven't begun; the process ends after the current one. After a failed job no
    other runs; its error is raised by the next call of a method, at the latest when the block ends.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        self._last: Future[None] | None = None

    def put(self, job: Job) -> None:
        """Adds a job and returns at once; memory that the job holds is released when it is done."""
        self.raise_if_failed()
        self._last = self._pool.submit(_run_after, self._last, job)

    def wait(self) -> None:
        """Returns when all jobs are done."""
        if self._last is not None:
            self._last.result()

    def raise_if_failed(self) -> None:
        """Raises the error of a job that failed."""
        if self._last is not None and self._last.done():
            self._last.result()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interrupted = error is not None and not isinstance(error, Exception)
        self._pool.shutdown(wait=not interrupted, cancel_futures=interrupted)
        if error is None:
            self.wait()
        elif not interrupted and self._last is not None and self._last.exception() not in (None, error):
            log.error("%s", self._last.exception())


def _run_after(earlier: Future[None] | None, job: Job) -> None:
    """Runs the job; if the earlier one has failed, raises its error instead."""
    if earlier is not None:
        earlier.result()
    job()

"""A thread that writes files while their maker goes on: one after the other, in order, none after one that failed."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

log = logging.getLogger(__name__)

Job = Callable[[], None]


class BackgroundWriter:
    """Does jobs in the order in which they are put, in one thread.

    When the block ends all are done, also if it ends by an error; an interrupt (`KeyboardInterrupt`, `SystemExit`)
    waits for none and drops those that haven't begun; the process ends when the one under way is done. After a job that
    fails no other is done; its error is raised by the next call of a method, at the latest when the block ends.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        self._last: Future[None] | None = None

    def put(self, job: Job) -> None:
        """Returns at once; what the job holds is let go when it is done."""
        self.raise_if_failed()
        self._last = self._pool.submit(_do_after, self._last, job)

    def wait(self) -> None:
        """Returns when everything is done that was put."""
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


def _do_after(earlier: Future[None] | None, job: Job) -> None:
    """Raises the error of the job before, if that has failed; or else does this one."""
    if earlier is not None:
        earlier.result()
    job()

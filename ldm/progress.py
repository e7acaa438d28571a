"""Progress of a command: a bar on a terminal, and now and then a line in the log, for files and batch systems."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

Item = TypeVar("Item")

LINE_EVERY = 30.0
"""Seconds from one line in the log to the next."""

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left, {rate_fmt}{postfix}]"

_shown: list["tqdm[Any]"] = []
"""Bars on the terminal."""


class Progress:
    """Work of `total` units, of which `done` are done already; used in a `with` block.

    `inner`: a bar below another one, for work of seconds; not logged, and removed at the end. `silent`: shows nothing.
    """

    def __init__(
        self, total: int, name: str, unit: str, *, done: int = 0, inner: bool = False, silent: bool = False
    ) -> None:
        self.total, self.name, self.unit, self.done = total, name, unit, done
        self._first, self._last, self._notes = done, done, ""
        self._begun = self._logged_at = time.monotonic()
        self._is_logged = not (inner or silent)
        self._bar: tqdm[Any] | None = None
        if not silent and (sys.stderr.isatty() or (_in_notebook() and not inner)):
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=name,
                unit=unit,
                leave=not inner,
                file=sys.stderr,
                ncols=None if _width(sys.stderr) else 80,
                dynamic_ncols=_width(sys.stderr) > 0,
                bar_format=FORMAT,
            )
            _shown.append(self._bar)

    def update(self, count: int = 1) -> None:
        """Counts `count` more units as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        if self._is_logged and time.monotonic() - self._logged_at >= LINE_EVERY:
            self._log()

    def note(self, **values: str) -> None:
        """Sets values to show beside the progress, such as losses."""
        self._notes = "".join(f", {name}={value}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix(values)

    def restart(self) -> None:
        """Starts from zero again."""
        self.done = 0
        if self._bar is not None:
            self._bar.reset()

    def close(self) -> None:
        """Ends the bar's line and logs the last line. Further calls do nothing."""
        if self._bar is not None:
            _shown.remove(self._bar)
            self._bar.close()
        if self._is_logged and self.done > self._last:
            self._log()
        self._bar, self._is_logged = None, False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _log(self) -> None:
        self._logged_at, self._last = time.monotonic(), self.done
        seconds = max(self._logged_at - self._begun, 1e-6)
        speed = (self.done - self._first) / seconds
        left = tqdm.format_interval((self.total - self.done) / speed) if speed else "?"
        rate = f"{speed:.2f} {self.unit}/s" if speed >= 1 else f"{1 / speed:.2f} s/{self.unit}" if speed else "?"
        log.info(
            "%s: %d of %d, %s so far, %s, %s left%s",
            *(self.name, self.done, self.total, tqdm.format_interval(seconds), rate, left, self._notes),
            extra={"on_bar": bool(self._bar)},
        )


def _in_notebook() -> bool:
    """Whether a notebook shows what is written: a bar works there, but not a second one below it."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def _width(stream: TextIO) -> int:
    """Columns of a terminal; 0 if unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0


def each(items: Iterable[Item], total: int, name: str, unit: str, *, silent: bool = False) -> Iterator[Item]:
    """Yields the items and shows how many are done."""
    with Progress(total, name, unit, silent=silent) as progress:
        for item in items:
            yield item
            progress.update()


@contextmanager
def without_bars() -> Iterator[None]:
    """Hides the bars while a line is written to the terminal."""
    if not _shown:
        yield
        return
    with tqdm.get_lock():
        for bar in _shown:
            bar.clear()
        try:
            yield
        finally:
            for bar in _shown:
                bar.refresh()


def open_closed_streams() -> None:
    """Opens standard streams that the caller has closed (`>&-`) on the null device.

    Otherwise the next opened file, perhaps a checkpoint, would get their number, and text that a library writes to the
    terminal. Call it before any file is opened.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


class Tolerant:
    """A stream whose reader or terminal may disappear: later output is dropped, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, or drops it."""
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Writes buffered text, or drops it."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""How far a command is: a bar on a terminal, and lines in the log now and then, for files and batch systems."""

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
"""The bars on the terminal."""


class Progress:
    """Work of `total` units, of which `done` are done already; used in a `with` block.

    `inner`: a bar below another's, for what takes seconds; it is not logged and disappears. `silent`: nothing is shown.
    """

    def __init__(
        self, total: int, what: str, unit: str, *, done: int = 0, inner: bool = False, silent: bool = False
    ) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, done
        self._first, self._last, self._noted = done, done, ""
        self._begun = self._told = time.monotonic()
        self._is_told = not (inner or silent)
        self._bar: tqdm[Any] | None = None
        if not silent and (sys.stderr.isatty() or (_in_notebook() and not inner)):
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=what,
                unit=unit,
                leave=not inner,
                file=sys.stderr,
                ncols=None if _width(sys.stderr) else 80,
                dynamic_ncols=_width(sys.stderr) > 0,
                bar_format=FORMAT,
            )
            _shown.append(self._bar)

    def update(self, count: int = 1) -> None:
        """So many more units are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        if self._is_told and time.monotonic() - self._told >= LINE_EVERY:
            self._tell()

    def note(self, **values: str) -> None:
        """What is shown beside: losses, say."""
        self._noted = "".join(f", {name}={value}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix(values)

    def restart(self) -> None:
        """From nothing again."""
        self.done = 0
        if self._bar is not None:
            self._bar.reset()

    def close(self) -> None:
        """Ends the bar's line; the log gets the last line. Once is enough."""
        if self._bar is not None:
            _shown.remove(self._bar)
            self._bar.close()
        if self._is_told and self.done > self._last:
            self._tell()
        self._bar, self._is_told = None, False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _tell(self) -> None:
        self._told, self._last = time.monotonic(), self.done
        seconds = max(self._told - self._begun, 1e-6)
        speed = (self.done - self._first) / seconds
        left = tqdm.format_interval((self.total - self.done) / speed) if speed else "?"
        rate = f"{speed:.2f} {self.unit}/s" if speed >= 1 else f"{1 / speed:.2f} s/{self.unit}" if speed else "?"
        log.info(
            "%s: %d of %d, %s so far, %s, %s left%s",
            *(self.what, self.done, self.total, tqdm.format_interval(seconds), rate, left, self._noted),
            extra={"on_bar": bool(self._bar)},
        )


def _in_notebook() -> bool:
    """Whether a notebook shows what is written: a bar works there, but not a second one below it."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def _width(stream: TextIO) -> int:
    """Of a terminal; 0 where it isn't known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0


def each(items: Iterable[Item], total: int, what: str, unit: str, *, silent: bool = False) -> Iterator[Item]:
    """The items, and how many of them have been dealt with."""
    with Progress(total, what, unit, silent=silent) as progress:
        for item in items:
            yield item
            progress.update()


@contextmanager
def without_bars() -> Iterator[None]:
    """Takes the bars from the terminal while a line is written to it."""
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
    """Opens the standard streams that the caller has closed (`>&-`): what is written to them goes nowhere.

    Otherwise the next file that is opened, a checkpoint perhaps, would get their number, and what a library writes to
    the terminal. To be called before anything is opened.
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
    """A stream whose reader or terminal may go: then what is written goes nowhere, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """All of the text, to the stream or to nowhere."""
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """What is buffered, likewise."""
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

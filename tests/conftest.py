"""How the tests run, and what those of several rooms need: a whole tiny checkpoint and a few photos."""

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

# Networks this small are faster on one thread, by far where processes share the cores. This holds in the commands that
# tests start too, and has to stand before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

from ldm.locking import unlock_directories
from ldm.terminal import warn_once

pytest_plugins = ["tests.commands.fixtures"]  # trained runs and whole commands, which several rooms look at

settings.register_profile("patient", deadline=None, max_examples=30)  # a busy machine makes no test fail
settings.load_profile("patient")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for each core, at most four.

    None beside this one for slow tests, of which one may fill the memory, and for files named one by one, which are
    done before another process has imported torch.
    """
    if "not slow" not in config.option.markexpr or any(".py" in argument for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 4)


_frozen_at = [0]
"""How many modules were imported when garbage was last frozen."""


def pytest_collection_finish() -> None:
    """Excludes imported modules from garbage collection, which saves a tenth of the time."""
    gc.collect()
    gc.freeze()
    _frozen_at[0] = len(sys.modules)


def pytest_runtest_teardown() -> None:
    """The same for libraries that are first imported by what is tested, such as Lightning."""
    if len(sys.modules) > _frozen_at[0] + 200:
        gc.collect()
        gc.freeze()
        _frozen_at[0] = len(sys.modules)


def pytest_sessionfinish() -> None:
    """Lets it be cleared away in order: libraries tell of what is left when Python ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    """Warnings that a process gives once are given in every test."""
    warn_once.cache_clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports travel between processes as UTF-8, and some tests log names that are none."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture
def unlock_afterwards() -> Iterator[None]:
    yield
    unlock_directories()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as Python answers it by itself: tests that run in a shell's background would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """Saves the time in which each file is flushed: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 checkpoint of the tiny model with its tokenizer beside it. It is shared: don't write to it."""
    from tests.tiny import write_tiny_checkpoint  # not above: the process that only hands out tests needs no torch

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A directory of five images of a red shape, each of another size, in PNG and JPEG."""
    directory = tmp_path / "photos"
    directory.mkdir()
    sizes = [(48, 48), (64, 40), (40, 64), (33, 57), (90, 70)]
    for index, (width, height) in enumerate(sizes, 1):
        photo = Image.new("RGB", (width, height), (40 * index, 120, 255 - 40 * index))
        draw = ImageDraw.Draw(photo)
        draw.ellipse((width // 4 - index, height // 5, width // 2 + 3 * index, height - 8), fill=(230, 30, 20))
        draw.rectangle((2 * index, 3, 2 * index + 6, 9), fill=(250, 240, 80))
        photo.save(directory / (f"photo-{index}.png" if index % 2 else f"photo-{index}.jpg"))
    return directory

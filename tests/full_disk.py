"""Disks on which nothing more can be written, for tests that look at what is left."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Meanwhile the system lets this process write no file that is larger: `File too large`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def entries(directory: Path) -> set[str]:
    """Everything below a directory, hidden or not."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}

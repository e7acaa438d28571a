"""Damaged images of every format: read or refused by name, in bounded time and memory. The campaign has many more."""

import resource
from pathlib import Path

import pytest

from tests.data.mutations import MUTATIONS, SECONDS, originals, read_mutated


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged words about the image
def test_damaged_images_are_read_or_refused(tmp_path: Path) -> None:
    count = len(originals()) * len(MUTATIONS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = list(read_mutated(range(count), tmp_path))
    assert [one for one in results if one.outcome not in ("read", "refused") or one.seconds > SECONDS] == []
    assert {one.outcome for one in results} == {"read", "refused"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * 2**20  # KiB

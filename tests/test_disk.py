"""Sizes as people say them, and why a file could not be written."""

import errno
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.disk import UNITS, free_bytes, human_size, unwritable, write_error
from tests.full_disk import files_of_at_most


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1549, "1.55 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (133_400_000, "133 MB"),
        (4_265_380_512, "4.27 GB"),
        (10_000_000_000, "10 GB"),
        (2 * 10**18, "2000 PB"),
    ],
)
def test_a_size_has_three_digits(size: int, text: str) -> None:
    assert human_size(size) == text


@given(st.integers(0, 10**17))
def test_a_rounded_size_is_close_to_the_size(size: int) -> None:
    number, unit = human_size(size).split()
    exponent = 0 if unit == "byte" else UNITS.index(unit)
    assert abs(float(number) * 1000**exponent - size) <= size / 200


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_with_needed_and_free_space(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_500_000))
    error = OSError(number, "No room")
    assert str(write_error(tmp_path / "a", error, 4_270_000_000)) == (
        f"could not write {tmp_path / 'a'}: No room; it takes 4.27 GB; 1.5 MB are free in {tmp_path}"
    )
    assert str(write_error(tmp_path / "a", error)).endswith(f"No room; 1.5 MB are free in {tmp_path}")


def test_directories_are_named_as_the_user_named_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    error = OSError(errno.ENOSPC, "No room")
    assert str(write_error(Path("runs/a/b"), error)).endswith("are free in runs")
    assert str(write_error(Path("a"), error)).endswith(f"are free in {tmp_path}")
    (tmp_path / "runs" / "file").touch()
    assert unwritable(Path("runs/file/below")) == "runs/file is not a directory"
    assert unwritable(Path("runs/new")) is unwritable(Path("new")) is None


def test_the_systems_error_number_is_found_in_a_librarys_message(tmp_path: Path) -> None:
    with files_of_at_most(5_000_000):
        error = write_error(tmp_path / "a", RuntimeError("Error while serializing: I/O error: xyz (os error 27)"), 7)
    assert str(error) == f"could not write {tmp_path / 'a'}: File too large; `ulimit -f` allows files of 5 MB"
    assert str(write_error(tmp_path / "a", RuntimeError("xyz"))) == f"could not write {tmp_path / 'a'}: xyz"


def test_free_space_is_known_for_a_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5_000_000


def test_unwritable_directories_are_recognised_before_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert unwritable(tmp_path) is unwritable(tmp_path / "a" / "b") is None
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert unwritable(path) == f"{tmp_path / 'file'} is not a directory"
    assert unwritable(tmp_path / "link" / "below") == f"{tmp_path / 'link'} is not a directory"

"""Files: written whole or not at all; numbered directories; names made of prompts."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.errors import UserError
from ldm.files import ROOT, atomic_path, counted, make_numbered_dir, natural_key, slug, write_text


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_root_is_the_repository() -> None:
    assert (ROOT / "ldm" / "files.py").is_file()
    assert (ROOT / "pyproject.toml").is_file()


def test_a_file_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.txt"
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert not path.exists()
        assert partial.parent.parent == path.parent  # so that the renaming never crosses a disk
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_an_old_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a long old text")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "a long old text"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), UserError("no")])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as partial:
        partial.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError, match=r"could not write .*a\.txt: No space left"), atomic_path(path) as partial:
        partial.write_text("half of the n")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not write .*a\.txt"), atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_a_directory_in_the_way_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match=r"could not write .*a\.txt"), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert names(tmp_path) == ["a.txt"]


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed = tmp_path / "a.txt", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append((os.fstat(descriptor).st_size, path.exists())))
    write_text(path, "12345")
    assert flushed[0] == (5, False)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.txt") as partial:
            partial.touch(mode=0o600)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_text_is_written_as_utf8(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "text.txt"
    write_text(path, text)
    assert path.read_bytes().decode("utf-8").replace(os.linesep, "\n") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo of sks can!", "a-photo-of-sks-can"),
        ("  A  Cat, on/under: the \\ mat ", "a-cat-on-under-the-mat"),
        ("Café 東京", "café-東京"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "untitled"),
        ("!?", "untitled"),
        ("x" * 99, "x" * 60),
        ("a" * 59 + " b", "a" * 59),
    ],
)
def test_slug_of(text: str, expected: str) -> None:
    assert slug(text) == expected


@given(text=st.text(), max_length=st.integers(1, 80))
def test_slugs_are_short_safe_names(text: str, max_length: int) -> None:
    name = slug(text, max_length)
    assert re.fullmatch(r"\w([\w-]*\w)?", name)
    assert "--" not in name
    assert len(name) <= max(max_length, len("untitled"))
    assert slug(name, max_length) == name or name == "untitled"
    assert 0 < len(slug(text).encode()) <= 60  # it fits into a file name


def test_natural_order_counts_numbers_wherever_they_stand() -> None:
    ordered = ["2/b-9", "10/a", "run", "run-2", "Run-2b", "run-10", "run-10-3", "run-10-12"]
    assert [str(path) for path in sorted(map(Path, reversed(ordered)), key=natural_key)] == ordered


def test_numbered_directories_count_from_one(tmp_path: Path) -> None:
    made = [make_numbered_dir(tmp_path / "runs", "cat") for _ in range(3)]
    assert [path.name for path in made] == ["cat-1", "cat-2", "cat-3"]
    assert all(path.is_dir() and path.parent == tmp_path / "runs" for path in made)


def test_numbers_go_on_above_the_highest_there_is_as_numbers_do(tmp_path: Path) -> None:
    for name in ("cat-2", "cat-9", "cat-10"):
        (tmp_path / name).mkdir()
    assert make_numbered_dir(tmp_path, "cat").name == "cat-11"


def test_a_file_of_that_name_counts_too(tmp_path: Path) -> None:
    (tmp_path / "cat-4").touch()
    assert make_numbered_dir(tmp_path, "cat").name == "cat-5"


def test_other_names_do_not_count(tmp_path: Path) -> None:
    for name in ("cat", "cat-x", "cat-7-old", "a-cat-8", "catty-9", "c.t-5", "cot-6"):
        (tmp_path / name).mkdir()
    assert make_numbered_dir(tmp_path, "cat").name == "cat-1"
    assert make_numbered_dir(tmp_path, "c.t").name == "c.t-6"


def test_a_directory_that_another_process_made_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat-1").mkdir()
    (tmp_path / "cat-1" / "theirs").touch()
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))  # it was created after the listing
    assert make_numbered_dir(tmp_path, "cat").name == "cat-2"
    assert (tmp_path / "cat-1" / "theirs").exists()


def test_many_at_once_never_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_numbered_dir(tmp_path, "cat"), range(40)))
    assert len(set(made)) == 40


def test_a_place_where_no_directory_can_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"could not create .*file.cat-1"):
        make_numbered_dir(tmp_path / "file", "cat")


def test_a_directory_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/a\.txt"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_name_that_is_too_long_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not write"):
        write_text(tmp_path / ("a" * 300), "x")


def test_digits_of_any_script_sort_without_an_error() -> None:
    names = ["run-10", "run1²2", "run-2", "run٣"]
    ordered = [path.name for path in sorted(map(Path, names), key=natural_key)]
    assert ordered.index("run-2") < ordered.index("run-10")


@pytest.mark.parametrize(("count", "words"), [(0, "0 images"), (1, "1 image"), (2, "2 images")])
def test_a_number_of_things_reads_as_a_person_says_it(count: int, words: str) -> None:
    assert counted(count, "image") == words

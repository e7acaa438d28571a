"""Files of the user's are opened if they are files, and nothing else is waited for."""

import os
from pathlib import Path

import pytest

from ldm.errors import UserError
from ldm.user_files import open_regular, path_kind


def test_a_file_is_opened_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("a", "link"):
        assert path_kind(tmp_path / name) is None
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


@pytest.mark.parametrize(
    ("name", "words"),
    [("pipe", "is a named pipe"), ("link", "is a named pipe"), ("null", "is a device"), ("folder", "is a folder")],
)
def test_other_things_are_named(name: str, words: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"{name} {words}, not a file"):
        open_regular(tmp_path / name)


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr("ldm.user_files.path_kind", lambda path: None)  # it was a file a moment ago
    with pytest.raises(UserError, match="not a file"):
        open_regular(tmp_path / "a")


def test_what_is_not_there_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nowhere")

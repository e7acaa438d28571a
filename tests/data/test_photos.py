"""Folders of photos: images are used whatever their names, other files are named once, odd photos get a warning."""

import logging
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm.data.formats import IMAGE_SUFFIXES
from ldm.data.images import fit_image, read_image, to_tensor
from ldm.data.photos import MOST_NAMED, read_directory
from ldm.errors import UserError
from tests.data.odd_images import GOOD, NO_IMAGES


def write_photos(directory: Path, *names: str) -> None:
    directory.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        Image.new("RGB", (10 + index, 20), (index, 0, 0)).save(directory / name, format="PNG")


def test_all_photos_of_a_directory(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths, images = read_directory(photos, 16, 24)
    assert [path.name for path in paths] == [f"photo-{i}.{'png' if i % 2 else 'jpg'}" for i in range(1, 6)]
    assert images.shape == (5, 3, 16, 24)
    assert images.dtype == torch.float32
    for path, image in zip(paths, images, strict=True):
        assert torch.equal(image, to_tensor(fit_image(read_image(path), 16, 24)))
    assert not caplog.records


def test_photos_come_in_natural_order(tmp_path: Path) -> None:
    names = ["1.png", "2.png", "10.png", "a-9.png", "a-10.png", "B.png", "c.png"]
    write_photos(tmp_path, *reversed(names))
    assert [path.name for path in read_directory(tmp_path, 8, 8)[0]] == names


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_a_suffix_counts_in_capitals_too(suffix: str, tmp_path: Path) -> None:
    write_photos(tmp_path, f"a{suffix}", f"B{suffix.upper()}")
    assert len(read_directory(tmp_path, 8, 8)[0]) == 2


@pytest.mark.parametrize("name", [name for name in GOOD if name.startswith("a.")] + ["no-suffix", "a-jpeg.txt"])
def test_an_image_is_used_whatever_its_name(name: str, tmp_path: Path) -> None:
    GOOD[name](tmp_path / name)
    assert [path.name for path in read_directory(tmp_path, 8, 8)[0]] == [name]


def messages_of(directory: Path, caplog: pytest.LogCaptureFixture, size: int = 8) -> list[str]:
    """All messages while a folder is read."""
    with caplog.at_level(logging.INFO):
        read_directory(directory, size, size)
    return [record.getMessage().replace(str(directory), "DIR") for record in caplog.records]


def test_hidden_files_are_not_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_photos(tmp_path, "a.png", ".hidden.png")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / ".trash").mkdir()
    assert not messages_of(tmp_path, caplog)


def test_every_file_that_is_no_image_is_named_once_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photos(tmp_path, "a.png")
    for name, (content, _) in NO_IMAGES.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "more").mkdir()
    messages = messages_of(tmp_path, caplog)
    for name, (_, reason) in {
        **NO_IMAGES,
        "pipe.png": (b"", "a named pipe"),
        "gone.jpg": (b"", "links to nothing"),
    }.items():
        [line] = [line for line in messages if name in line]
        assert line.startswith("DIR: not used: ") and f"({reason}" in line
    assert "DIR: not used: more (folders)" in messages
    assert len(messages) == len({reason for _, reason in NO_IMAGES.values()}) + 3  # a line for each reason
    warned = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    assert not any("notes.txt" in line for line in warned)
    assert any("clip.mp4" in line for line in warned)


def test_of_very_many_files_some_are_named_and_the_rest_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photos(tmp_path, "a.png")
    for index in range(MOST_NAMED + 7):
        (tmp_path / f"{index}.txt").write_text("words")
    [line] = messages_of(tmp_path, caplog)
    assert f"{MOST_NAMED - 1}.txt and 7 more (text)" in line


def test_every_image_that_can_not_be_read_is_named_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_photos(tmp_path, "good.png", "cut.png", "zz.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:40])
    paths, images = read_directory(tmp_path, 8, 8)
    assert [path.name for path in paths] == ["good.png", "zz.png"]
    assert len(images) == 2
    [record] = caplog.records
    assert record.levelno == logging.WARNING and str(tmp_path / "cut.png") in record.getMessage()


def test_a_folder_of_folders_with_photos_is_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_photos(tmp_path / "my can", "a.png")
    with pytest.raises(
        UserError, match=r"holds no image itself, but these folders in it do: my can; name one: -i '.*my can'"
    ):
        read_directory(tmp_path, 8, 8)


def test_equal_photos_are_used_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_photos(tmp_path, "a.png", "b.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert messages_of(tmp_path, caplog) == ["DIR: a.png and copy.png are the same file; each of them is used"]
    assert len(read_directory(tmp_path, 8, 8)[0]) == 3


@pytest.mark.parametrize(
    ("size", "messages"),
    [
        ((12, 12), ["DIR/a.png: 12 x 12 is enlarged 43 times"]),
        ((256, 256), []),
        ((900, 600), []),
        ((8000, 800), ["DIR/a.png: of 8000 x 800 only the middle 10% is used"]),
        ((1, 1), ["DIR/a.png: 1 x 1 is enlarged 512 times"]),
        ((100_000, 1), ["enlarged 512 times", "only the middle 0% is used"]),
    ],
)
def test_photos_too_small_or_too_long_get_a_warning(
    size: tuple[int, int], messages: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    lines = messages_of(tmp_path, caplog, 512)
    assert len(lines) == len(messages) and all(part in line for part, line in zip(messages, lines, strict=True))


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no directory .*nowhere"):
        read_directory(tmp_path / "nowhere", 8, 8)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"a\.png is a file, not a folder"):
        read_directory(tmp_path / "a.png", 8, 8)


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["broken.jpg"], [".hidden.png"]])
def test_a_directory_without_a_readable_image(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError) as error:
        read_directory(tmp_path, 8, 8)
    assert f"{tmp_path} holds no readable image" in str(error.value)
    assert all(name in str(error.value) for name in names if not name.startswith("."))

"""Folders of captioned images: both forms, and errors that name what is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.data.captioned import digest, find_captioned
from ldm.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "pictures"
    directory.mkdir()
    return directory


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def write_list(directory: Path, *rows: Any) -> Path:
    """Rows that are no text yet are written as JSON."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path = directory / "metadata.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def captions(directory: Path, **options: bool) -> dict[str, tuple[str, ...]]:
    found = find_captioned(directory, **options)
    return {image.path.relative_to(directory).as_posix(): image.captions for image in found}


def test_metadata_names_images_of_its_folder(folder: Path) -> None:
    for name in ("1.png", "sub/2.png", "sub/deep/3.jpg"):
        image(folder / name)
    write_list(folder, {"file_name": "1.png", "text": "a cat"})
    write_list(folder / "sub", {"file_name": "2.png", "text": ["a dog", "a black dog"]})
    write_list(folder / "sub" / "deep", {"file_name": "3.jpg", "text": "a cow", "class": "cow", "n": 3})
    assert captions(folder) == {
        "1.png": ("a cat",),
        "sub/2.png": ("a dog", "a black dog"),
        "sub/deep/3.jpg": ("a cow",),
    }
    assert find_captioned(folder)[2].columns == {"class": "cow", "n": 3}


def test_metadata_may_name_images_in_other_folders(folder: Path) -> None:
    image(folder / "images" / "1.png")
    image(folder / "2.png")
    (folder / "lists").mkdir()
    write_list(folder, {"file_name": "./images/1.png", "text": "a cat"})
    write_list(folder / "lists", {"file_name": "../2.png", "text": "a dog"})
    assert captions(folder) == {"2.png": ("a dog",), "images/1.png": ("a cat",)}


def test_each_line_of_a_text_file_is_a_caption(folder: Path) -> None:
    image(folder / "1.png")
    (folder / "1.txt").write_text("a cat\n\n  a grey cat  \n", encoding="utf-8")
    image(folder / "2.webp")
    (folder / "2.txt").write_bytes("\ufeffune chèvre\r\n".encode())
    assert captions(folder) == {"1.png": ("a cat", "a grey cat"), "2.webp": ("une chèvre",)}


def test_metadata_go_before_a_text_file(folder: Path) -> None:
    image(folder / "1.png")
    (folder / "1.txt").write_text("a dog")
    write_list(folder, {"file_name": "1.png", "text": "a cat"})
    assert captions(folder) == {"1.png": ("a cat",)}


def test_images_come_in_natural_order(folder: Path) -> None:
    for name in ("10.png", "9.png", "b/1.png", "1.png"):
        image(folder / name).with_suffix(".txt").write_text("a cat")
    assert list(captions(folder)) == ["1.png", "9.png", "10.png", "b/1.png"]


def test_a_line_ends_where_json_says(folder: Path) -> None:
    """Python's `splitlines` would also cut at a line separator within a caption."""
    image(folder / "1.png")
    text = "a cat\u2028on a\x85mat"
    write_list(folder, {"file_name": "1.png", "text": text}, "", "  ")
    assert captions(folder) == {"1.png": (text,)}


@pytest.mark.parametrize("text", ["", " ", [], ["", "  "]])
def test_an_empty_caption_is_none(text: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    image(folder / "1.png")
    image(folder / "2.png")
    write_list(folder, {"file_name": "1.png", "text": text}, {"file_name": "2.png", "text": ["", "a cat"]})
    assert captions(folder) == {"2.png": ("a cat",)}
    assert f"left out: 1 images without a caption, such as {folder / '1.png'}" in caplog.text


def test_images_without_captions_are_left_out_where_they_are_needed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image(folder / "1.png")
    image(folder / "2.png").with_suffix(".txt").write_text("a cat")
    write_list(folder, {"file_name": "1.png", "class": "dog"})
    assert captions(folder, need_captions=False) == {"1.png": (), "2.png": ("a cat",)}
    assert not caplog.records
    assert captions(folder) == {"2.png": ("a cat",)}
    assert len(caplog.records) == 1


def test_hidden_files_and_other_files_are_skipped(folder: Path) -> None:
    for name in (".trash/1.png", "._2.png", "3.png"):
        image(folder / name).with_suffix(".txt").write_text("a cat")
    write_list(folder / ".trash", "not even JSON")
    (folder / "notes.txt").write_text("remember the milk")
    (folder / "4.pdf").touch()
    assert list(captions(folder)) == ["3.png"]


def test_a_directory_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"there is no directory .*nowhere"):
        find_captioned(folder / "nowhere")


@pytest.mark.parametrize(
    ("need", "words"), [(True, r"no images with captions; .*metadata\.jsonl.*\.txt"), (False, "no images$")]
)
def test_an_empty_directory_is_the_users_error(need: bool, words: str, folder: Path) -> None:
    with pytest.raises(UserError, match=words):
        find_captioned(folder, need_captions=need)


@pytest.mark.parametrize(
    "row",
    [
        '{"file_name": "2.png", "text": "a cat"',
        "2.png, a cat",
        '"2.png"',
        {"text": "a cat"},
        {"file_name": 2, "text": "a cat"},
        {"file_name": "2.png", "text": None},
    ],
)
def test_a_malformed_line_is_named_by_its_number(row: Any, folder: Path) -> None:
    image(folder / "1.png")
    path = write_list(folder, {"file_name": "1.png", "text": "a cat"}, "", row)
    with pytest.raises(UserError) as error:
        find_captioned(folder)
    assert f"{path}, line 3 should be" in str(error.value)
    assert '{"file_name": "1.png", "text": "a caption"}' in str(error.value)


@pytest.mark.parametrize("name", ["metadata.jsonl", "1.txt"])
def test_text_that_is_not_utf_8_is_named(name: str, folder: Path) -> None:
    image(folder / "1.png")
    (folder / name).write_bytes('{"file_name": "1.png", "text": "une ch\xe8vre"}'.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name} is not text in UTF-8"):
        find_captioned(folder)


def test_images_that_metadata_lists_but_are_gone_are_counted_and_named(folder: Path) -> None:
    image(folder / "1.png")
    write_list(folder, *({"file_name": f"{i}.png", "text": "a cat"} for i in (1, 2, 3)))
    with pytest.raises(UserError, match=r"2 images that metadata\.jsonl lists are not there, such as .*2\.png$"):
        find_captioned(folder)


# The digest


def dataset(root: Path) -> Path:
    for name in ("1.png", "b/2.png"):
        image(root / name).with_suffix(".txt").write_text(f"a cat {name}")
    return root


def digest_of(directory: Path) -> str:
    return digest(find_captioned(directory), directory)


def test_a_dataset_may_be_moved(tmp_path: Path) -> None:
    assert digest_of(dataset(tmp_path / "here")) == digest_of(dataset(tmp_path / "there"))


@pytest.mark.parametrize("change", ["caption", "name", "size", "fewer", "more"])
def test_a_changed_dataset_is_another(change: str, tmp_path: Path) -> None:
    before, root = digest_of(dataset(tmp_path / "here")), dataset(tmp_path / "there")
    match change:
        case "caption":
            (root / "1.txt").write_text("a dog")
        case "name":
            for suffix in (".png", ".txt"):
                (root / "1").with_suffix(suffix).rename((root / "3").with_suffix(suffix))
        case "size":
            Image.effect_noise((9, 5), 50).save(root / "1.png")
        case "fewer":
            (root / "1.png").unlink()
        case "more":
            image(root / "4.png").with_suffix(".txt").write_text("a cow")
    assert digest_of(root) != before


# What else lies in such folders


def test_images_with_unknown_suffixes_are_found_by_their_content(folder: Path) -> None:
    for name in ("a", "b.image", "c.tga"):
        Image.new("RGB", (4, 4)).save(folder / name, format="TGA" if name == "c.tga" else "PNG")
        (folder / name).with_suffix(".txt").write_text(f"a cat {name}")
    assert list(captions(folder)) == ["a", "b.image", "c.tga"]


def test_files_that_are_no_images_are_named_once_and_captions_are_not(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image(folder / "1.png").with_suffix(".txt").write_text("a cat")
    (folder / "sub").mkdir()
    for name in ("1.json", "1.yaml", "1.caption", "info.csv", ".hidden.mp4"):
        (folder / name).write_text("{}")
    for name in ("clip.mp4", "sub/other.mp4"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypmp42" + bytes(20))
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    assert list(captions(folder)) == ["1.png"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: not used: pipe, pipe.png (a named pipe)",
        f"{folder}: not used: clip.mp4, sub/other.mp4 (videos)",
    ]


@pytest.mark.parametrize("name", ["1.txt", "metadata.jsonl"])
def test_a_pipe_as_a_list_of_captions_does_not_block(name: str, folder: Path) -> None:
    image(folder / "1.png")
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=rf"{name} is a named pipe, not a file"):
        find_captioned(folder)


def test_listing_opens_no_file_with_an_images_suffix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(200):
        (folder / f"{index}.jpg").touch()
    monkeypatch.setattr("ldm.data.captioned.unused_reason", lambda path: pytest.fail(f"{path} was opened"))
    assert len(find_captioned(folder, need_captions=False)) == 200


# What strangers write


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("[" * 100_000, "line 1 should be"),
        ('{"file_name": "1.png", "text": "a", "n": ' + "9" * 5000 + "}", "line 1 should be"),
        ('{"file_name": "1.png", "text": "half \\ud83d"}', r"line 1: a caption holds \ud83d"),
        ('{"file_name": "1.png", "text": "\\u001b[2J"}', r"line 1: a caption holds \x1b"),
        (json.dumps({"file_name": "1.png", "text": "x" * 10**6}), "line 1: a caption should be at most"),
        ('{"file_name": "' + "x" * 300 + '.png", "text": "a"}', "are not there"),
        ('{"file_name": "a\\u0000.png", "text": "a"}', "are not there"),
    ],
    ids=["deep", "digits", "half a letter", "control", "long", "long name", "NUL in a name"],
)
def test_a_hostile_line_is_the_users_error(row: str, words: str, folder: Path) -> None:
    image(folder / "1.png")
    write_list(folder, row)
    with pytest.raises(UserError) as error:
        find_captioned(folder)
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_hostile_caption_file_is_the_users_error(folder: Path) -> None:
    image(folder / "1.png").with_suffix(".txt").write_text("a cat\x1b[2J")
    with pytest.raises(UserError, match=r"1\.txt: a caption holds \\x1b"):
        find_captioned(folder)


@pytest.mark.parametrize("name", ["metadata.jsonl", "1.txt"])
def test_captions_of_a_gigabyte_are_not_read(name: str, folder: Path) -> None:
    image(folder / "1.png")
    with (folder / name).open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(UserError, match=f"{name} is too large"):
        find_captioned(folder)

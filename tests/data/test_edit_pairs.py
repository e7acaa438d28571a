"""Folders of pairs of images with instructions."""

import json
from pathlib import Path

import pytest

from ldm.data.edit_pairs import EditPair, digest, find_pairs
from ldm.errors import UserError


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")


def row(**changes: object) -> str:
    return json.dumps({"input_image": "1.png", "edit_prompt": "make it red", "edited_image": "b/2.png", **changes})


def test_lists_name_images_below_their_folders(tmp_path: Path) -> None:
    touched(tmp_path / "one" / "1.png", tmp_path / "one" / "b" / "2.png", tmp_path / "two" / "1.png")
    (tmp_path / "one" / "metadata.jsonl").write_text(row() + "\n\n" + row(edit_prompt=["a", "b"]) + "\n")
    (tmp_path / "two" / "metadata.jsonl").write_text(row(edited_image="../one/1.png", more=1) + "\n")
    one, two = tmp_path / "one", tmp_path / "two"
    pairs = find_pairs(tmp_path)
    assert pairs == [
        EditPair(one / "1.png", one / "b" / "2.png", ("make it red",)),
        EditPair(one / "1.png", one / "b" / "2.png", ("a", "b")),
        EditPair(two / "1.png", one / "1.png", ("make it red",)),
    ]
    before = digest(pairs, tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert digest(find_pairs(moved), moved) == before
    (moved / "one" / "1.png").write_bytes(b"another image")
    assert digest(find_pairs(moved), moved) != before


def test_the_layout_of_the_papers_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00" / "0001"
    touched(*(folder / f"{seed}_{when}.jpg" for seed in (7, 12) for when in (0, 1)))
    (folder / "prompt.json").write_text(json.dumps({"input": "a dog", "edit": "make it a cat", "output": "a cat"}))
    (tmp_path / "seeds.json").write_text(json.dumps([["shard-00/0001", ["7", "12"]]]))
    assert find_pairs(tmp_path) == [
        EditPair(folder / f"{seed}_0.jpg", folder / f"{seed}_1.jpg", ("make it a cat",)) for seed in (7, 12)
    ]
    (folder / "prompt.json").write_text("{}")
    with pytest.raises(UserError, match=r"prompt\.json should hold the instruction"):
        find_pairs(tmp_path)
    (tmp_path / "seeds.json").write_text("[1]")
    with pytest.raises(UserError, match=r"seeds\.json should be"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "holds no pairs"),
        (row(), r"2 images of the pairs in .* are not there, such as .*1.png"),
        ("{", "line 1 should be"),
        (row(edit_prompt="  "), "line 1 should be"),
        (row(edit_prompt=3), "line 1 should be"),
        ('{"file_name": "1.png", "text": "a cat"}', r"line 1 should be .*input_image"),
    ],
)
def test_lists_that_can_not_be_used_are_refused(lines: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(lines)
    with pytest.raises(UserError, match=words):
        find_pairs(tmp_path)

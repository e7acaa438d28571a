"""Datasets of the toy world: rows fit their images, datasets are not mixed, and interrupted calls continue."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm.errors import UserError
from ldm.toyworld import (
    CLASSES,
    COLOURS,
    PATTERN_NAMES,
    SETTINGS,
    canonical_caption,
    is_held_out,
    random_scene,
    render,
    unusual_subject,
)
from ldm.toyworld import dataset as dataset_module
from ldm.toyworld.__main__ import main
from ldm.toyworld.dataset import METADATA, view_scene, write_dataset
from ldm.toyworld.edits import random_edit
from ldm.toyworld.scene import photograph
from ldm.toyworld.words import PATTERNS

SIZE = 8


@pytest.fixture(autouse=True)
def small_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images a folder, so that a few images make several."""
    monkeypatch.setattr(dataset_module, "PER_FOLDER", 6)


def write(directory: Path, count: int = 14, **options: Any) -> list[dict[str, Any]]:
    """Writes a dataset in this process; its rows in order, each with its image's path."""
    write_dataset(directory, **{"seed": 3, "count": count, "size": SIZE, "workers": 1, **options})
    rows = []
    for lines in sorted(directory.glob(f"*/{METADATA}")):
        for line in lines.read_text("utf-8").splitlines():
            row = json.loads(line)
            rows.append({**row, "path": lines.parent / row["file_name"]})
    return rows


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_row_describes_its_image(tmp_path: Path) -> None:
    rows = write(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0000000", "0000006", "0000012", "dataset.json"]
    assert [row["file_name"] for row in rows] == [f"{index:07d}.png" for index in range(14)]
    for index, row in enumerate(rows):
        scene = random_scene(3, index)
        assert (row["class"], row["colour"]) == (scene.thing.class_name, scene.thing.colours[0])
        assert (row["pattern"], row["setting"]) == (scene.thing.pattern, scene.setting)
        assert "subject" not in row
        assert row["text"][0] == canonical_caption(scene)
        image = np.asarray(Image.open(row["path"]), dtype=np.int16)
        expected = ((render([scene], SIZE)[0].permute(1, 2, 0).numpy() + 1) * 127.5).round()
        assert image.shape == (SIZE, SIZE, 3)
        assert abs(image - expected).max() <= 1


def test_captions_come_once_each(tmp_path: Path) -> None:
    rows = write(tmp_path, 8)
    assert all(len(set(row["text"])) == len(row["text"]) for row in rows)
    assert sum(len(row["text"]) for row in rows) > 4 * len(rows)


@pytest.mark.slow
def test_the_split_is_kept(tmp_path: Path) -> None:
    kinds = {
        split: {
            is_held_out(row["class"], row["colour"], row["setting"])
            for row in write(tmp_path / split, count, split=split)
        }
        for split, count in (("train", 6), ("held_out", 6), ("all", 18))
    }
    assert kinds == {"train": {False}, "held_out": {True}, "all": {False, True}}


def test_the_same_seed_is_the_same_dataset(tmp_path: Path) -> None:
    write(tmp_path / "first", 3)
    write(tmp_path / "again", 3)
    write(tmp_path / "other", 3, seed=4)
    assert content(tmp_path / "first") == content(tmp_path / "again") != content(tmp_path / "other")


def test_a_longer_dataset_begins_with_the_shorter_one(tmp_path: Path) -> None:
    write(tmp_path / "short", 6)
    write(tmp_path / "long", 9)
    assert content(tmp_path / "short").items() <= content(tmp_path / "long").items()


def test_only_interrupted_folders_are_rendered_again(tmp_path: Path) -> None:
    write(tmp_path)
    whole = content(tmp_path)
    (tmp_path / "0000006" / METADATA).unlink()  # it is written last
    (tmp_path / "0000006" / "0000007.png").write_bytes(b"half an image")
    (tmp_path / "0000006" / "0000008.png").unlink()
    untouched = tmp_path / "0000000" / "0000001.png"
    before = untouched.stat().st_mtime_ns
    write(tmp_path)
    assert content(tmp_path) == whole
    assert untouched.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", [{"seed": 4}, {"size": 16}, {"split": "held_out"}, {"views": 2}], ids=str)
def test_two_datasets_are_not_mixed_in_one_directory(change: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, 2)
    before = content(tmp_path)
    with pytest.raises(UserError, match="holds another dataset"):
        write(tmp_path, 8, **change)
    assert content(tmp_path) == before


@pytest.mark.slow
def test_several_processes_write_what_one_does(tmp_path: Path) -> None:
    write(tmp_path / "one", 12)
    write(tmp_path / "two", 12, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_thing_is_photographed_in_several_settings(tmp_path: Path) -> None:
    rows = write(tmp_path, 9, views=3)
    things = defaultdict(list)
    for row in rows:
        things[row["subject"]].append(row)
    assert sorted(things) == list(range(3)) and {len(views) for views in things.values()} == {3}
    for views in things.values():
        assert len({view["setting"] for view in views}) == 3
        assert len({(view["class"], view["pattern"], view.get("colour")) for view in views}) == 1
        assert len({view["path"].read_bytes() for view in views}) == 3


def test_views_show_one_thing_and_half_of_all_things_are_unusual() -> None:
    views = 4
    scenes = [[view_scene(1, thing * views + view, views) for view in range(views)] for thing in range(200)]
    things = [photos[0].thing for photos in scenes]
    assert all(photo.thing == photos[0].thing for photos in scenes for photo in photos)
    assert len(set(things)) == len(things)
    assert sum(thing.pattern not in PATTERNS for thing in things) == 100
    assert {thing.class_name for thing in things[::2]} == {thing.class_name for thing in things[1::2]} == set(CLASSES)
    assert {thing.colours[0] for thing in things[::2]} == set(COLOURS)
    assert {photo.setting for photos in scenes for photo in photos} == set(SETTINGS)


def test_other_worlds_have_other_things_and_none_has_a_subject_of_a_small_seed() -> None:
    def unusual(seed: int) -> set[Any]:
        return {view_scene(seed, index, 2).thing for index in range(2, 200, 4)}

    subjects = {unusual_subject(seed, class_name) for seed in range(20) for class_name in CLASSES}
    assert unusual(0).isdisjoint(unusual(1))
    assert not (unusual(0) | unusual(1)) & subjects
    assert view_scene(0, 3, 2) in photograph(view_scene(0, 3, 2).thing, 2, 1 << 32 | 1, list(SETTINGS))


def test_unusual_things_have_no_ordinary_colour_or_pattern(tmp_path: Path) -> None:
    rows = write(tmp_path, 8, views=2)
    for row in rows:
        usual = row["subject"] % 2 == 0
        assert ("colour" in row) == usual == (row["pattern"] in PATTERNS)
        assert row["pattern"] in PATTERN_NAMES and row["pattern"] in (*row["text"][0].split(), "plain")


def test_the_command_writes_both_kinds(tmp_path: Path) -> None:
    flags = ["--count", "6", "--size", "8", "--seed", "1", "--dataset"]
    main([*flags, str(tmp_path / "single"), "--split", "held_out"])
    main([*flags, str(tmp_path / "views"), "--views", "2"])
    single, views = (
        [json.loads(line) for line in (tmp_path / kind / "0000000" / METADATA).read_text("utf-8").splitlines()]
        for kind in ("single", "views")
    )
    assert all(is_held_out(row["class"], row["colour"], row["setting"]) for row in single)
    assert [row["subject"] for row in views] == [0, 0, 1, 1, 2, 2]


def test_edits_are_pairs_of_images_with_an_instruction(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=3, count=2, size=SIZE, edits=True, workers=1)
    rows = [
        {**json.loads(line), "folder": lines.parent}
        for lines in sorted(tmp_path.glob(f"*/{METADATA}"))
        for line in lines.read_text("utf-8").splitlines()
    ]
    assert len(rows) == 2
    for index, row in enumerate(rows):
        edit = random_edit(3, index)
        assert (row["edit_prompt"], row["kind"]) == (edit.instruction, edit.kind)
        for scene, name, labelled in ((edit.before, "input_image", "before"), (edit.after, "edited_image", "after")):
            image = np.asarray(Image.open(row["folder"] / row[name]), dtype=np.int16)
            expected = ((render([scene], SIZE)[0].permute(1, 2, 0).numpy() + 1) * 127.5).round()
            assert abs(image - expected).max() <= 1
            assert (row[labelled]["class"], row[labelled]["setting"]) == (scene.thing.class_name, scene.setting)
    with pytest.raises(UserError, match="another dataset"):
        write_dataset(tmp_path, seed=3, count=2, size=SIZE, workers=1)

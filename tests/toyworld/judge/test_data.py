"""The judge's batches: pairs of photographs of one thing, captions and labels that belong to their images."""

import json
from pathlib import Path

import pytest
import torch

from ldm.data.batches import DeviceShare
from ldm.data.captioned import CaptionedImage, find_captioned
from ldm.errors import UserError
from ldm.toyworld import CLASSES, SETTINGS
from ldm.toyworld.judge.data import HEADS, NO_LABEL, Images, JudgeBatches, label_indices, read_images, right_answers
from tests.judges import SIZE, judge_tokenizer, write_things


@pytest.fixture
def things(tmp_path: Path) -> Path:
    return write_things(tmp_path / "things", 5)


def batches(*directories: Path, things: int = 3) -> JudgeBatches:
    tokenizer = judge_tokenizer(directories[0].parent / "tokenizer")
    return JudgeBatches(Images(directories), tokenizer, SIZE, DeviceShare(0, things))


def test_images_are_sorted_into_things_and_lone_ones(things: Path, tmp_path: Path) -> None:
    lone = write_things(tmp_path / "lone", 7, views=1)
    images = Images([things, lone])
    assert [len(views) for views in images.things] == [3] * 5
    assert all(len({image.columns["subject"] for image in views}) == 1 for views in images.things)
    assert [image.path.parent for image in images.lone] == [lone] * 7


def test_things_of_two_folders_stay_apart(things: Path, tmp_path: Path) -> None:
    more = write_things(tmp_path / "more", 5)
    images = Images([things, more])
    assert len(images.things) == 10
    assert all(len({image.path.parent for image in views}) == 1 for views in images.things)


def test_without_a_thing_of_two_images_the_error_names_a_command(tmp_path: Path) -> None:
    lone = write_things(tmp_path / "lone", 4, views=1)
    with pytest.raises(UserError, match="--views 3"):
        Images([lone])


def test_a_batch_pairs_two_views_of_each_thing(tmp_path: Path) -> None:
    lone = write_things(tmp_path / "lone", 12, views=1)
    things = write_things(tmp_path / "six", 6)  # an epoch is two whole batches
    for step in range(4):
        batch = batches(things, lone).step(step)
        pairs = batch["pairs"]
        assert pairs == 3
        assert batch["images"].shape == (12, 3, SIZE, SIZE) and batch["input_ids"].shape == (12, 32)
        labels = batch["labels"]
        assert torch.equal(labels["class"][:pairs], labels["class"][pairs : 2 * pairs])
        assert len(labels["class"][:pairs].unique()) == pairs
        assert (labels["setting"][:pairs] != labels["setting"][pairs : 2 * pairs]).all()
        assert (labels["setting"][2 * pairs :] == 0).all()  # a lone image is the first view


def test_without_lone_images_there_are_only_pairs(things: Path) -> None:
    batch = batches(things).step(0)
    assert len(batch["images"]) == len(batch["input_ids"]) == len(batch["labels"]["class"]) == 6


def test_captions_belong_to_their_images(things: Path) -> None:
    some = batches(things)
    said = set()
    for step in range(6):
        batch = some.step(step)
        for ids, class_, setting in zip(
            batch["input_ids"], batch["labels"]["class"], batch["labels"]["setting"], strict=True
        ):
            text = some.tokenizer.clip_tokenizer.decode(ids, skip_special_tokens=True).strip()
            assert text in (f"thing {class_}", f"thing {class_} view {setting}")
            said.add(text)
    assert {"view" in text for text in said} == {True, False}


def test_labels_are_indices_and_other_values_have_none(things: Path) -> None:
    rows = find_captioned(things)
    labels = label_indices(rows)
    assert list(labels) == [head.name for head in HEADS]
    for row, class_, setting, colour, pattern in zip(rows, *labels.values(), strict=True):
        assert (list(CLASSES)[class_], list(SETTINGS)[setting]) == (row.columns["class"], row.columns["setting"])
        unusual = row.columns["subject"] % 2 == 1
        assert (int(colour) == NO_LABEL) == (int(pattern) == NO_LABEL) == unusual


def test_an_image_without_columns_has_no_labels(tmp_path: Path) -> None:
    directory = write_things(tmp_path / "bare", 2)
    (directory / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"00{i}.png", "text": "a thing"}) + "\n" for i in range(6)), "utf-8"
    )
    labels = label_indices(find_captioned(directory))
    assert all((of_head == NO_LABEL).all() for of_head in labels.values())


def test_images_are_read_at_the_given_size(things: Path) -> None:
    rows = find_captioned(things)[:2]
    images = read_images(rows, 8)
    assert images.shape == (2, 3, 8, 8)
    assert images[0, :, 0, 0].tolist() == pytest.approx([20 / 127.5 - 1, -1, 128 / 127.5 - 1], abs=1e-5)


@pytest.mark.parametrize(
    ("pattern", "colour", "right"),
    [
        ("striped", "red", {"red", "white"}),
        ("checkered", "red", {"red", "white"}),
        ("spotted", "red", {"red"}),
        ("spiral", None, set()),
    ],
)
def test_either_colour_of_stripes_and_checks_is_right(pattern: str, colour: str | None, right: set[str]) -> None:
    columns = {"class": "duck", "pattern": pattern} | ({"colour": colour} if colour else {})
    caption = f"a photo of a red and white {pattern} duck in the snow"
    answers = right_answers(CaptionedImage(Path("0.png"), (caption, "a blue duck"), columns))
    assert answers["colour"] == right
    assert (answers["class"], answers["setting"]) == ({"duck"}, set())

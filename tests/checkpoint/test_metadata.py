"""What a checkpoint says of itself: as strings that any tool can carry, and back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.checkpoint.metadata import CheckpointInfo

texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(texts, values, max_size=4)
words = st.dictionaries(texts, texts, max_size=4)
infos = st.builds(
    CheckpointInfo,
    config=mappings,
    class_name=texts,
    instance_prompt=texts,
    class_prompt=texts,
    step=st.integers(0, 2**64 - 1),
    seed=st.integers(0, 2**64 - 1),
    base=texts,
    base_sha256=texts,
    parts=words,
    options=mappings,
    versions=words,
    merged=st.lists(texts, max_size=2),
)


@given(info=infos)
def test_what_is_told_comes_back(info: CheckpointInfo) -> None:
    assert CheckpointInfo.from_metadata(info.to_metadata()) == info


@given(info=infos)
def test_each_field_is_json_under_a_name_of_ours(info: CheckpointInfo) -> None:
    metadata = info.to_metadata()
    assert metadata.pop("format") == "pt"
    assert metadata.keys() == {f"ldm.{name}" for name, value in vars(info).items() if name != "merged" or value}
    for key, text in metadata.items():
        assert text.isascii()
        assert json.loads(text) == getattr(info, key.removeprefix("ldm."))


@pytest.mark.parametrize(
    "other",
    [
        {"ldm.from_the_future": "{"},
        {"ldm.": "x"},
        {"ldm.from_metadata": "1"},
        {"modelspec.title": "x"},
        {"step": "7"},
        {"xldm.step": "7"},
        {"format": "something"},
    ],
    ids=str,
)
def test_what_is_not_ours_is_passed_over(other: dict[str, str]) -> None:
    info = CheckpointInfo(class_name="can", step=3)
    assert CheckpointInfo.from_metadata({**info.to_metadata(), **other}) == info
    assert CheckpointInfo.from_metadata(other) == CheckpointInfo()


@pytest.mark.parametrize("name", vars(CheckpointInfo()))
def test_an_older_file_without_a_field_has_its_default(name: str) -> None:
    metadata = CheckpointInfo(class_name="can", step=3, merged=["a"]).to_metadata()
    del metadata[f"ldm.{name}"]
    assert getattr(CheckpointInfo.from_metadata(metadata), name) == getattr(CheckpointInfo(), name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", []),
        ("merged", [1]),
        ("merged", "a"),
        ("config", None),
        ("class_name", 7),
        ("step", "7"),
        ("step", True),
        ("step", 1.5),
        ("step", None),
        ("seed", []),
        ("parts", ["unet"]),
        ("options", "x"),
    ],
)
def test_a_field_of_another_type_is_an_error(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        CheckpointInfo.from_metadata({f"ldm.{name}": json.dumps(value)})


@pytest.mark.parametrize("text", ["", "{", "'a'", "nul", "1 2"])
def test_what_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        CheckpointInfo.from_metadata({"ldm.config": text})

"""Edits: the instruction names what changes, and nothing else does."""

from dataclasses import replace

import pytest

from ldm.toyworld import CLASSES, SETTINGS, is_held_out
from ldm.toyworld.edits import KIND_WEIGHTS, Edit, random_edit
from ldm.toyworld.scene import Scene
from ldm.toyworld.words import PATTERNS

EDITS = [random_edit(5, index) for index in range(400)]


def of_kind(kind: str) -> list[Edit]:
    found = [edit for edit in EDITS if edit.kind == kind]
    assert found
    return found


def with_parts_of(scene: Scene, other: Scene, *names: str) -> Scene:
    """The scene with these parts of the other one's thing."""
    return replace(scene, thing=replace(scene.thing, **{name: getattr(other.thing, name) for name in names}))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("colour", ("colours", "paints")),
        ("pattern", ("pattern", "colours", "paints")),
        ("class", ("class_name", "dimensions")),
        ("material", ("material",)),
        ("setting", ()),
    ],
)
def test_only_what_the_instruction_names_changes(kind: str, parts: tuple[str, ...]) -> None:
    assert set(KIND_WEIGHTS) == {edit.kind for edit in EDITS}
    for edit in of_kind(kind):
        before, after = edit.before, edit.after
        assert before != after
        expected = with_parts_of(before, after, *parts)
        if kind == "setting":
            expected = replace(expected, setting=after.setting)
        elif kind == "class":  # each class is seen from its own sides
            expected = replace(expected, yaw=after.yaw)
        assert after == expected


def test_the_instruction_says_the_result() -> None:
    for edit in of_kind("colour"):
        assert all(name in edit.instruction for name in edit.after.thing.colours)
        assert not set(edit.after.thing.colours[:1]) & set(edit.before.thing.colours)
    for edit in of_kind("class"):
        assert any(edit.instruction.endswith(name) for name in CLASSES[edit.after.thing.class_name])
    for edit in of_kind("pattern"):
        pattern = edit.after.thing.pattern
        named = {pattern, PATTERNS[pattern]} if pattern != "plain" else {"plain", "remove", "whole", "without"}
        assert any(word in edit.instruction for word in named), edit.instruction
        assert edit.after.thing.colours[0] == edit.before.thing.colours[0]
    said = [edit for edit in of_kind("setting") if edit.instruction.split()[0] in ("put", "show")]
    assert said
    for edit in said:
        other = "show the stars"
        assert edit.instruction == other or any(name in edit.instruction for name in SETTINGS[edit.after.setting])


def test_edits_are_the_same_again_and_keep_the_split() -> None:
    assert [random_edit(5, index) for index in range(20)] == EDITS[:20]
    assert random_edit(6, 0) != EDITS[0]

    def held_out(scene: Scene) -> bool:
        return is_held_out(scene.thing.class_name, scene.thing.colours[0], scene.setting)

    assert not any(held_out(edit.before) or held_out(edit.after) for edit in EDITS)
    assert all(held_out(random_edit(5, index, "held_out").before) for index in range(50))

"""The paper's prompts."""

import re

import pytest

from ldm.evaluation.protocol import LIVE_CLASSES, dreambooth_prompts, is_live, without_token
from ldm.files import ROOT

LIST = ROOT / "data" / "dreambooth" / "prompts_and_classes.txt"
"""The dataset's own, where `download/dreambooth-data.sh` puts it."""

OBJECT_CLASSES = {
    "backpack",
    "boot",
    "bowl",
    "can",
    "candle",
    "cartoon",
    "clock",
    "glasses",
    "sneaker",
    "stuffed animal",
    "teapot",
    "toy",
    "vase",
}
"""The dataset's classes of objects."""


def test_there_are_25_of_each_kind_of_subject() -> None:
    objects, live = dreambooth_prompts(live=False), dreambooth_prompts(live=True)
    for prompts in (objects, live):
        assert len(prompts) == len(set(prompts)) == 25
        assert all(prompt.count("{class}") == prompt.count("sks") == 1 for prompt in prompts)
    assert len(set(objects) & set(live)) == 15
    assert "a sks {class} floating in an ocean of milk" in objects
    assert "a sks {class} wearing a black top hat and a monocle" in live


def test_another_identifier_can_be_used() -> None:
    assert dreambooth_prompts(live=True, token="zwx")[0] == "a zwx {class} in the jungle"


def test_prompts_are_those_of_the_dataset() -> None:
    if not LIST.is_file():
        pytest.skip("needs the dataset's list: bash download/dreambooth-data.sh dog")
    text = LIST.read_text(encoding="utf-8")
    found = [
        line.replace("{0}", "sks").replace("{1}", "{class}") for line in re.findall(r"^'(.+)'\.format", text, re.M)
    ]
    assert tuple(found) == dreambooth_prompts(live=False) + dreambooth_prompts(live=True)
    classes = dict(line.split(",") for line in text.split("Prompts")[0].splitlines() if line.count(",") == 1)
    del classes["subject_name"]
    assert set(classes.values()) == LIVE_CLASSES | OBJECT_CLASSES
    assert sum(is_live(name) for name in classes.values()) == 9


def test_the_last_word_decides_what_is_living() -> None:
    assert is_live("dog") and is_live("Cat") and is_live("corgi dog")
    assert not any(is_live(name) for name in (*OBJECT_CLASSES, "hot dog stand", "water bottle", ""))


@pytest.mark.parametrize(
    ("prompt", "without"),
    [
        ("a photo of sks dog", "a photo of dog"),
        ("a sks dog in the snow", "a dog in the snow"),
        ("sks", ""),
        ("a dog", "a dog"),
        ("sksdog and asks", "sksdog and asks"),
        ("a photo of sks, sks  and sks dog", "a photo of , and dog"),
    ],
)
def test_a_prompt_without_the_identifier(prompt: str, without: str) -> None:
    assert without_token(prompt) == without


def test_an_identifier_is_no_regular_expression() -> None:
    assert without_token("a s.s dog by sks", token="s.s") == "a dog by sks"

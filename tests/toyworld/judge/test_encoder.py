"""The judge at work: the tiny one for what is computed, the embedded one for whether it is right."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import ldm.toyworld.judge.encoder as evaluation
from ldm.data.photos import read_directory
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.toyworld import SETTINGS, canonical_caption, photograph, random_scene, render, unusual_subject
from ldm.toyworld.judge.data import HALF_AND_HALF
from ldm.toyworld.judge.encoder import EMBEDDED_JUDGE, Evaluator, load_evaluator
from ldm.toyworld.judge.file import judge_writer
from tests.judges import SIZE, build_tiny_judge, judge_tokenizer
from tests.tiny import write_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def tiny(tmp_path: Path) -> Evaluator:
    return Evaluator(build_tiny_judge(), judge_tokenizer(tmp_path / "tokenizer"), CPU)


@pytest.fixture(scope="module")
def embedded() -> Evaluator:
    return load_evaluator(CPU)


def random_images(count: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_most_probable_answer_is_named(tiny: Evaluator) -> None:
    images = random_images(5)
    logits = tiny.judge(images).logits
    for index, answers in enumerate(tiny.name(images)):
        assert list(answers) == ["class", "setting", "colour", "pattern"]
        for head, answer in answers.items():
            probabilities = logits[head][index].softmax(0)
            assert answer.label == tiny.labels[head][int(probabilities.argmax())]
            assert answer.probability == pytest.approx(probabilities.max().item(), rel=1e-4)


def test_similarities_are_cosines(tiny: Evaluator) -> None:
    images, others, captions = random_images(4), random_images(7)[4:], ["a cat", "a dog"]
    to_captions = tiny.caption_similarity(images, captions)
    to_things = tiny.subject_similarity(images, others)
    assert to_captions.shape == (4, 2) and to_things.shape == (4, 3)
    text = tiny.judge.embed_captions(tiny.tokenizer(captions))
    expected = F.cosine_similarity(tiny.judge.embed_images(images)[:, None], text[None], dim=-1)
    assert torch.allclose(to_captions, expected, atol=1e-5)
    assert torch.allclose(tiny.subject_similarity(images, images).diagonal(), torch.ones(4), atol=1e-5)


def test_many_images_are_judged_in_parts(tiny: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny.probabilities(random_images(7)), tiny.caption_similarity(random_images(7), list("abcde"))
    monkeypatch.setattr(evaluation, "AT_A_TIME", 2)
    parts = tiny.probabilities(random_images(7)), tiny.caption_similarity(random_images(7), list("abcde"))
    assert all(torch.allclose(whole[0][head], parts[0][head], atol=1e-6) for head in whole[0])
    assert torch.allclose(whole[1], parts[1], atol=1e-6)


def test_larger_images_are_made_smaller(tiny: Evaluator) -> None:
    small = random_images(3)
    large = F.interpolate(small, scale_factor=4, mode="nearest")
    assert torch.allclose(tiny.embed_images(large), tiny.embed_images(small), atol=0.1)
    assert tiny.embed_subjects(random_images(2, 40)).shape == (2, 8)


def test_half_precision_images_are_accepted(tiny: Evaluator) -> None:
    images = random_images(2)
    assert torch.allclose(tiny.embed_images(images.half()), tiny.embed_images(images), atol=1e-2)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    judge_writer(tmp_path / "judge.safetensors", build_tiny_judge(), "another digest")()
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="another tokenizer"):
        load_evaluator(CPU, tmp_path / "judge.safetensors", tokenizer)
    judge_writer(tmp_path / "judge.safetensors", build_tiny_judge(), judge_tokenizer(tokenizer).digest)()
    assert load_evaluator(CPU, tmp_path / "judge.safetensors", tokenizer).judge.config.size == SIZE


def test_the_embedded_judge_is_small() -> None:
    assert EMBEDDED_JUDGE.stat().st_size < 4e6


def test_the_embedded_judge_is_right_about_new_renders(embedded: Evaluator) -> None:
    scenes = [random_scene(91, index, split="all") for index in range(40)]
    things = [scene.thing for scene in scenes]
    truth = {
        "class": [{thing.class_name} for thing in things],
        "setting": [{scene.setting} for scene in scenes],
        # Stripes and checks have no visible main colour.
        "colour": [{*thing.colours[: 2 if thing.pattern in HALF_AND_HALF else 1]} for thing in things],
        "pattern": [{thing.pattern} for thing in things],
    }
    images = render(scenes, 64)
    found = embedded.name(images)
    for head, right in truth.items():
        assert sum(one[head].label in answers for one, answers in zip(found, right, strict=True)) >= 37, head
    captions = [canonical_caption(scene) for scene in scenes]
    nearest = embedded.caption_similarity(images, captions).argmax(dim=1)
    words = [sorted(captions[i].split()) for i in nearest.tolist()]  # "red and white" or "white and red"
    assert sum(one == sorted(caption.split()) for one, caption in zip(words, captions, strict=True)) >= 37


def test_the_embedded_judge_uses_each_word(embedded: Evaluator) -> None:
    scene = random_scene(92, 0, class_name="duck", colour="red", setting="snow", split="all")
    scene = replace(scene, thing=replace(scene.thing, colours=("red", "white"), pattern="striped"))
    image = render([scene], 64)
    right = "a photo of a red and white striped duck in the snow"
    wrong = [
        "a photo of a red and white striped hat in the snow",
        "a photo of a red and white striped duck at night",
        "a photo of a blue and white striped duck in the snow",
        "a photo of a red and white checkered duck in the snow",
    ]
    similarity = embedded.caption_similarity(image, [right, *wrong])[0]
    assert similarity.argmax() == 0


def test_the_embedded_judge_recognises_a_thing_in_any_setting(embedded: Evaluator) -> None:
    _, photos = read_directory(ROOT / "data" / "bottle", 64, 64)
    elsewhere = photograph(unusual_subject(15, "bottle"), 4, 1, ["snow", "night", "water", "sunset"])
    others = [random_scene(93, index, class_name="bottle", setting=setting) for index, setting in enumerate(SETTINGS)]
    same = embedded.subject_similarity(render(elsewhere, 64), photos).mean(dim=1)
    different = embedded.subject_similarity(render(others, 64), photos).mean(dim=1)
    assert same.min() > different.max()

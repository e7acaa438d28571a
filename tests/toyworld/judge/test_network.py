"""The judge's network: what comes out, what it depends on, and that it is small."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldm.toyworld.judge.data import HEADS
from ldm.toyworld.judge.network import LARGEST_SCALE, Judge, JudgeConfig
from tests.judges import SIZE, TINY_JUDGE, build_tiny_judge, judge_tokenizer


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_an_opinion_has_an_answer_for_each_head_and_unit_vectors() -> None:
    judge = build_tiny_judge()
    opinion = judge(images(5))
    assert {name: tuple(logits.shape) for name, logits in opinion.logits.items()} == {
        "class": (5, 12),
        "setting": (5, 12),
        "colour": (5, 11),
        "pattern": (5, 4),
    }
    for vectors in (opinion.image, opinion.subject):
        assert vectors.shape == (5, 8)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(5))
    assert torch.equal(judge.embed_images(images(5)), opinion.image)
    assert torch.equal(judge.embed_subjects(images(5)), opinion.subject)
    assert not torch.allclose(opinion.image, opinion.subject)


def test_autocast_gives_float32() -> None:
    judge = build_tiny_judge()
    with torch.autocast("cpu", torch.bfloat16):
        opinion = judge(images(2))
        captions = judge.embed_captions(torch.full((2, 4), 7))
    assert {tensor.dtype for tensor in (*opinion.logits.values(), opinion.image, opinion.subject, captions)} == {
        torch.float32
    }


def test_an_image_is_judged_alone() -> None:
    judge = build_tiny_judge().eval()
    together = judge(images(4))
    alone = judge(images(4)[2:3])
    assert torch.allclose(alone.image, together.image[2:3], atol=1e-6)
    assert torch.allclose(alone.logits["class"], together.logits["class"][2:3], atol=1e-5)


def test_a_caption_does_not_depend_on_padding_or_on_its_neighbours(tmp_path: Path) -> None:
    judge, tokenizer = build_tiny_judge().eval(), judge_tokenizer(tmp_path)
    short, long = tokenizer(["a cat"]), tokenizer(["a cat on a far longer mat"])
    together = judge.embed_captions(torch.cat([short, long]))
    assert torch.allclose(judge.embed_captions(short), together[:1], atol=1e-6)
    assert torch.allclose(judge.embed_captions(short[:, :10]), together[:1], atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_order_of_words_matters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge, tokenizer = build_tiny_judge().eval(), judge_tokenizer(tmp_path)
    torch.nn.init.normal_(judge.text_network.positions)
    first, second = judge.embed_captions(tokenizer(["ab ba", "ba ab"]))
    assert (first - second).abs().max() > 1e-5, "which rounding alone doesn't reach"


def test_every_weight_gets_a_gradient(tmp_path: Path) -> None:
    judge, tokenizer = build_tiny_judge(), judge_tokenizer(tmp_path)
    opinion = judge(images(6))
    similarity = judge.scale() * opinion.image @ judge.embed_captions(tokenizer(list("abcdef"))).mT
    numbers = [similarity, opinion.subject, *opinion.logits.values()]
    sum((tensor * torch.randn_like(tensor)).sum() for tensor in numbers).backward()
    silent = [name for name, weight in judge.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


def test_the_scale_is_bounded() -> None:
    judge = build_tiny_judge()
    assert judge.scale().item() == pytest.approx(1 / 0.07)
    torch.nn.init.constant_(judge.log_scale, 20.0)
    assert judge.scale().item() == LARGEST_SCALE


def test_the_default_fits_into_four_megabytes_of_half_precision() -> None:
    with torch.device("meta"):
        judge = Judge(JudgeConfig(HEADS, vocab_size=1024))
    assert 2 * sum(parameter.numel() for parameter in judge.parameters()) < 4e6
    assert sum(parameter.numel() for parameter in judge.image_network.parameters()) < 1.5e6


@pytest.mark.parametrize(("changes", "message"), [({"size": 18}, "multiple of 4"), ({"depths": (1,)}, "one length")])
def test_an_impossible_shape_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY_JUDGE, **changes)  # type: ignore[arg-type]

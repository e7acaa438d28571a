"""Training the judge: what a step's loss is, that it learns, and that it can be taken up again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ldm.data.batches import DeviceShare
from ldm.toyworld.judge.data import NO_LABEL, Images, JudgeBatch, JudgeBatches
from ldm.toyworld.judge.network import JudgeConfig
from ldm.training.config import JudgeTrainingConfig
from ldm.training.judge import JudgeTraining, answer_loss, build_judge_training, caption_loss, pair_loss
from tests.judges import SIZE, build_tiny_judge, judge_tokenizer, write_things
from tests.training.parts import Logging, assert_same, fit_on_cpu, logged_first

SHORT = JudgeTrainingConfig(iterations=4, save_every=2, learning_rate=1e-2, warmup_steps=0, batch_size=3)


class Logged(Logging, JudgeTraining):
    pass


def build(directory: Path, cls: type[JudgeTraining] = JudgeTraining, **changes: Any) -> JudgeTraining:
    if not directory.exists():
        write_things(directory / "things", 6)
        write_things(directory / "lone", 5, views=1)
    tokenizer = judge_tokenizer(directory / "tokenizer")
    images = Images([directory / "things", directory / "lone"])
    return cls(build_tiny_judge(), tokenizer, images, replace(SHORT, **changes), seed=1)


def batch_of(module: JudgeTraining, step: int = 0) -> JudgeBatch:
    share = DeviceShare(module.seed, module.config.batch_size)
    return JudgeBatches(module.images, module.tokenizer, SIZE, share).step(step)


def test_the_loss_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    module = build(tmp_path / "data", Logged, caption_weight=0.5, subject_weight=2.0)
    batch = batch_of(module)
    total = module.training_step(batch, 0)
    opinion = module.judge(batch["images"])
    expected = {
        f"loss/{name}": F.cross_entropy(logits, batch["labels"][name], ignore_index=NO_LABEL).item()
        for name, logits in opinion.logits.items()
    }
    captions = module.judge.embed_captions(batch["input_ids"])
    expected["loss/caption"] = caption_loss(opinion.image, captions, module.judge.scale()).item()
    expected["loss/subject"] = pair_loss(opinion.subject[:3], opinion.subject[3:6], temperature=0.1).item()
    weights = {"loss/caption": 0.5, "loss/subject": 2.0}
    expected["loss/total"] = sum(weights.get(name, 1.0) * value for name, value in expected.items())
    assert logged_first(module) == pytest.approx(expected, rel=1e-4)
    assert total.item() == pytest.approx(expected["loss/total"], rel=1e-4)


def test_images_without_an_answer_cost_nothing() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([1, NO_LABEL, 2, NO_LABEL])
    assert answer_loss(logits, labels).item() == pytest.approx(F.cross_entropy(logits[::2], labels[::2]).item())
    nothing = answer_loss(logits, torch.full((4,), NO_LABEL))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.slow
def test_training_lowers_the_error_what_it_is_shown(tmp_path: Path) -> None:
    module = build(tmp_path / "data", iterations=60)
    batch = batch_of(module)
    with torch.no_grad():
        before = module.judge(batch["images"]).logits
    fit_on_cpu(module, tmp_path / "run")
    module.eval()
    with torch.no_grad():
        after = module.judge(batch["images"]).logits
    for name in ("class", "setting"):
        labels = batch["labels"][name]
        assert answer_loss(after[name], labels) < 0.5 * answer_loss(before[name], labels), name


def test_a_resumed_training_resumes_exactly(tmp_path: Path) -> None:
    whole, first, second = (
        build(tmp_path / "data", lr_schedule="constant", iterations=iterations) for iterations in (4, 2, 4)
    )
    fit_on_cpu(whole, tmp_path / "whole")
    fit_on_cpu(first, tmp_path / "run")
    fit_on_cpu(second, tmp_path / "run")
    assert_same(second.judge, whole.judge)


def test_speed_counts_all_images(tmp_path: Path) -> None:
    module = build(tmp_path / "data")
    assert module.images_per_step == len(batch_of(module)["images"]) == 12
    module.images.lone = []
    assert module.images_per_step == len(batch_of(module)["images"]) == 6


def test_a_new_judge_fits_its_tokenizer_and_is_a_function_of_the_seed(tmp_path: Path) -> None:
    things = write_things(tmp_path / "things")
    tokenizer = judge_tokenizer(tmp_path / "tokenizer")
    first, again, other = (build_judge_training([things], tokenizer, SHORT, seed).judge for seed in (1, 1, 2))
    assert first.config == JudgeConfig(first.config.heads, vocab_size=514, max_length=32)
    weights = [judge.state_dict()["heads.class.weight"] for judge in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])

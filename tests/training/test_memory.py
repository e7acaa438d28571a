"""The predicted memory of a training: beside what real steps take, and what makes it smaller."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from ldm.nn.footprint import Footprint
from ldm.training.config import CHECKPOINTING_LEVELS, DreamBoothConfig
from ldm.training.memory import COMBINATIONS, Combination, Workload, choose, plenty, predict
from tests.tiny import tiny_config
from tests.training.parts import SHORT, batch_of, build_module

TINY = Workload(tiny_config(), 32, 32, like_cuda=False, previews=False)
AUTOCAST = torch.bfloat16
EVERY = replace(SHORT, gradient_checkpointing="all")


def measured(config: DreamBoothConfig, autocast_dtype: torch.dtype | None = None) -> int:
    """The peak of the second of two real steps."""
    module = build_module(config)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimizer = module.build_optimizer(fused=True)
    with Footprint() as footprint:
        footprint.watch(list(module.parameters()), list(module.buffers()))
        for step in range(2):
            optimizer.zero_grad()
            footprint.restart()
            with torch.autocast("cpu", autocast_dtype) if autocast_dtype else contextlib.nullcontext():
                loss = module.training_step(batch_of(module, step), step)
            loss.backward()
            del loss
            torch.nn.utils.clip_grad_norm_(module.trained_parameters(), 1.0)
            optimizer.step()
    return footprint.peak


@pytest.mark.parametrize(
    ("changes", "autocast_dtype"),
    [
        ({}, None),
        ({"train_text_encoder": True, "gradient_checkpointing": "all", "batch_size": 3}, AUTOCAST),
        ({"optimizer": "adamw8bit", "train_dtype": "bf16"}, None),
    ],
)
def test_it_is_what_real_steps_take(changes: dict[str, Any], autocast_dtype: torch.dtype | None) -> None:
    config = replace(SHORT, **changes)
    predicted = predict(replace(TINY, autocast_dtype=autocast_dtype), config).step
    assert predicted == pytest.approx(measured(config, autocast_dtype), rel=0.02)


def step_bytes(workload: Workload = TINY, **changes: Any) -> int:
    return predict(workload, replace(SHORT, **changes)).step


def test_fewer_bits_and_recomputing_need_less() -> None:
    large = replace(TINY, height=256, width=256)
    plain, attention, every = (step_bytes(large, gradient_checkpointing=level) for level in CHECKPOINTING_LEVELS)
    assert every < attention < plain
    weights = sum(p.numel() for p in build_module().trained_parameters())
    assert plain - step_bytes(large, optimizer="adamw8bit") == pytest.approx(6 * weights, rel=0.1)


@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"train_text_encoder": True}])
def test_more_pictures_and_the_text_encoder_need_more(changes: dict[str, Any]) -> None:
    large = replace(TINY, height=128, width=128, with_class=False)
    assert step_bytes(large, **changes) > step_bytes(large)


def test_several_devices_send_each_other_gradients() -> None:
    weights = sum(p.numel() for p in build_module().trained_parameters())
    assert step_bytes(replace(TINY, devices=2)) - step_bytes() == 4 * weights


def test_on_cuda_fixed_networks_are_elsewhere_and_autocast_keeps_more() -> None:
    assert step_bytes(replace(TINY, like_cuda=True)) < step_bytes()
    mixed = replace(TINY, autocast_dtype=AUTOCAST, height=256, width=256)
    on_cuda = step_bytes(replace(mixed, like_cuda=True), gradient_checkpointing="all")
    assert on_cuda > step_bytes(mixed, gradient_checkpointing="all")


def test_a_preview_counts_where_it_needs_more() -> None:
    prediction = predict(replace(TINY, previews=True, height=256, width=256), EVERY)
    assert prediction.peak == max(prediction.step, prediction.preview)
    assert prediction.preview > predict(TINY, EVERY).preview


def test_where_weights_alone_are_too_much_nothing_more_is_looked_at() -> None:
    weights = sum(p.numel() for p in build_module().trained_parameters())
    on_cuda = replace(TINY, like_cuda=True)
    assert predict(on_cuda, SHORT, limit=15 * weights).step == pytest.approx(16 * weights, rel=0.01)


def test_plenty_is_more_than_enough() -> None:
    assert plenty(TINY, SHORT) > 2 * predict(TINY, SHORT).peak


def test_the_first_combination_that_fits_is_chosen() -> None:
    one, two = COMBINATIONS[0], Combination("adamw8bit", "bf16", "all")
    smaller = predict(TINY, two.applied_to(SHORT)).peak
    larger = predict(TINY, one.applied_to(SHORT)).peak
    assert smaller < larger
    for budget, expected in ((larger, one), (larger - 1, two), (smaller - 1, None)):
        chosen = choose(TINY, SHORT, [one, two], budget)
        assert (chosen and chosen[0]) == expected


def test_combinations_begin_with_the_exact_and_end_with_the_smallest() -> None:
    assert COMBINATIONS[0].applied_to(SHORT) == SHORT
    assert len(set(COMBINATIONS)) == 9
    assert COMBINATIONS[-1] == Combination("adamw8bit", "bf16", "all")
    assert str(COMBINATIONS[-1]) == "8-bit AdamW on bfloat16 weights, gradient checkpointing all"

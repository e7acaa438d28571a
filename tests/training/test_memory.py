"""The predicted memory of a training: compared with real steps, and what makes it smaller."""

import contextlib
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from ldm.choices import CHECKPOINTING_LEVELS
from ldm.commands.dreambooth.vram import USABLE
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.nn.memory import Footprint
from ldm.training import memory
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import (
    CUDA_OVERHEAD,
    GIB,
    MEMORY_PROFILES,
    Chooser,
    MemoryProfile,
    Prediction,
    Workload,
    plenty,
    predict,
)
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
    module.update_in_backward(optimizer)
    with Footprint() as footprint:
        footprint.watch(list(module.parameters()), list(module.buffers()))
        for step in range(2):
            optimizer.zero_grad()
            footprint.restart()
            with torch.autocast("cpu", autocast_dtype) if autocast_dtype else contextlib.nullcontext():
                loss = module.training_step(batch_of(module, step), step)
            loss.backward()
            del loss
            if not config.fused_backward:
                torch.nn.utils.clip_grad_norm_(module.trained_parameters(), 1.0)
                optimizer.step()
    return footprint.peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "autocast_dtype"),
    [
        ({}, None),
        ({"train_text_encoder": True, "gradient_checkpointing": "all", "batch_size": 3}, AUTOCAST),
        ({"optimizer": "adamw8bit", "train_dtype": "bf16"}, None),
        ({"optimizer": "adafactor", "train_dtype": "bf16-rounded", "fused_backward": True}, None),
        ({"optimizer": "adamw8bit", "train_dtype": "bf16", "fused_backward": True}, None),
    ],
)
def test_it_is_what_real_steps_take(changes: dict[str, Any], autocast_dtype: torch.dtype | None) -> None:
    config = replace(SHORT, **changes)
    expected = predict(replace(TINY, autocast_dtype=autocast_dtype), config).step
    assert expected == pytest.approx(measured(config, autocast_dtype), rel=0.02)


predicted = cache(predict)


def step_bytes(workload: Workload = TINY, **changes: Any) -> int:
    return predicted(workload, replace(SHORT, **changes)).step


@pytest.mark.slow
def test_fewer_bits_and_recomputing_need_less() -> None:
    large = replace(TINY, height=256, width=256)
    plain, attention, every = (step_bytes(large, gradient_checkpointing=level) for level in CHECKPOINTING_LEVELS)
    assert every < attention < plain
    weights = sum(p.numel() for p in build_module().trained_parameters())
    assert plain - step_bytes(large, optimizer="adamw8bit") == pytest.approx(6 * weights, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"train_text_encoder": True}])
def test_more_images_and_the_text_encoder_need_more(changes: dict[str, Any]) -> None:
    large = replace(TINY, height=128, width=128, with_class=False)
    assert step_bytes(large, **changes) > step_bytes(large)


@pytest.mark.slow
def test_several_devices_send_each_other_gradients() -> None:
    weights = sum(p.numel() for p in build_module().trained_parameters())
    assert step_bytes(replace(TINY, devices=2)) - step_bytes() == 4 * weights


@pytest.mark.slow
def test_on_cuda_fixed_networks_are_offloaded() -> None:
    assert step_bytes(replace(TINY, like_cuda=True)) < step_bytes()


@pytest.mark.slow
def test_on_cuda_autocast_keeps_more_of_an_image() -> None:
    def activations(like_cuda: bool) -> int:
        small, large = (
            step_bytes(Workload(tiny_config(), side, side, True, AUTOCAST, like_cuda, previews=False))
            for side in (64, 128)
        )
        return large - small

    assert activations(like_cuda=True) > activations(like_cuda=False)


@pytest.mark.slow
def test_in_float16_the_optimizer_needs_as_much_again_as_its_weights_but_no_step_is_captured() -> None:
    weights = sum(p.numel() for p in build_module().trained_parameters())
    small, large = (replace(TINY, like_cuda=True, height=side, width=side) for side in (32, 128))
    half = torch.float16
    assert predict(replace(small, autocast_dtype=half), SHORT).step == pytest.approx(20 * weights, rel=0.01)
    captured, plain = (predict(replace(large, autocast_dtype=dtype), SHORT).step for dtype in (AUTOCAST, half))
    assert plain == pytest.approx(captured, rel=0.01)  # its activations are gone when the optimizer begins


@pytest.mark.slow
def test_a_preview_counts_where_it_needs_more() -> None:
    prediction = predict(replace(TINY, previews=True, height=256, width=256), EVERY)
    assert prediction.peak == max(prediction.step, prediction.preview)
    assert prediction.preview > predicted(TINY, EVERY).preview


def test_if_weights_alone_are_too_much_nothing_else_is_counted() -> None:
    weights = sum(p.numel() for p in build_module().trained_parameters())
    on_cuda = replace(TINY, like_cuda=True)
    assert predict(on_cuda, SHORT, limit=15 * weights).step == pytest.approx(16 * weights, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "train_text_encoder", "most"),
    [
        (MemoryProfile("adamw8bit", "bf16", "attention"), False, 8 * USABLE),
        (MemoryProfile("adamw8bit", "bf16", "all", True), False, 5.7),
        (MemoryProfile("adamw8bit", "bf16-rounded", "all", True), False, 4.9),
        (MemoryProfile("adafactor", "bf16-rounded", "all", True), False, 3.3),
        (MemoryProfile("adafactor", "bf16-rounded", "all", True), True, 3.5),
    ],
)
def test_all_of_stable_diffusions_unet_trains_on_small_cards(
    profile: MemoryProfile, train_text_encoder: bool, most: float
) -> None:
    """In GiB, with `CUDA_OVERHEAD` and previews."""
    workload = Workload(LatentDiffusionConfig(), 512, 512, autocast_dtype=AUTOCAST)
    config = replace(profile.applied_to(DreamBoothConfig()), train_text_encoder=train_text_encoder)
    assert predict(workload, config).peak + CUDA_OVERHEAD < most * GIB


@pytest.mark.slow
def test_plenty_is_more_than_enough() -> None:
    assert plenty(TINY, SHORT) > 2 * predicted(TINY, SHORT).peak


def test_the_first_profile_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = dict(zip(MEMORY_PROFILES, (90, 60, 40, 80, 50, 30, 70, 45, 20, *range(19, 10, -1)), strict=True))

    def predict(workload: Workload, config: DreamBoothConfig, limit: float) -> Prediction:
        names = ("optimizer", "train_dtype", "gradient_checkpointing", "fused_backward")
        profile = MemoryProfile(**{name: getattr(config, name) for name in names})
        return Prediction(needs[profile], needs[profile] // 2)

    monkeypatch.setattr(memory, "predict", predict)
    for budget, index in ((100, 0), (90, 0), (89, 1), (45, 2), (39, 5), (20, 8), (11, 17)):
        profile = MEMORY_PROFILES[index]
        chosen = Chooser(TINY, SHORT).first_that_fits(MEMORY_PROFILES, budget)
        assert chosen == (profile, Prediction(needs[profile], needs[profile] // 2))
    assert Chooser(TINY, SHORT).first_that_fits(MEMORY_PROFILES, 10) is None


def test_profiles_begin_with_the_exact_and_end_with_the_smallest() -> None:
    assert MEMORY_PROFILES[0].applied_to(SHORT) == SHORT
    assert len(set(MEMORY_PROFILES)) == 18
    assert MEMORY_PROFILES[-1] == MemoryProfile("adafactor", "bf16-rounded", "all", fused_backward=True)
    assert str(MEMORY_PROFILES[9]).endswith(
        "bfloat16 weights, updates in the backward pass, gradient checkpointing none"
    )

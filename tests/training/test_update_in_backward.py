"""Updates within the backward pass: the same numbers as after it, no gradients left, and resumed bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.nn.memory import Footprint
from ldm.training.update_in_backward import clip_each
from tests.training.parts import SHORT, assert_same, batch_of, build_module, train

SMALL_NORM = 1e-2
"""Clips every step."""


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["global", *(pytest.param(one, marks=pytest.mark.slow) for one in ("tensor", "none"))])
def test_it_makes_the_updates_that_would_follow_the_backward_pass(clip: str, tmp_path: Path) -> None:
    modules = []
    for fused in (False, True):
        module = build_module(fused_backward=fused, clip=clip, max_grad_norm=SMALL_NORM, train_text_encoder=True)
        train(module, tmp_path / str(fused), autocast_dtype=torch.bfloat16)
        modules.append(module)
    assert_same(*modules)


def test_without_a_choice_each_weight_is_clipped_alone() -> None:
    assert [replace(SHORT, fused_backward=fused).clipping for fused in (False, True)] == ["global", "tensor"]
    assert replace(SHORT, fused_backward=True, clip="global").clipping == "global"


def test_clipping_each_weight_bounds_each_norm() -> None:
    large, small = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    large.grad, small.grad = torch.full((4,), 3.0), torch.full((4,), 0.1)
    clip_each([large, small], 1.0)
    torch.testing.assert_close(large.grad, torch.full((4,), 0.5))
    torch.testing.assert_close(small.grad, torch.full((4,), 0.1))


SMALLEST: dict[str, Any] = {"optimizer": "adafactor", "train_dtype": "bf16-rounded"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        SMALLEST,
        pytest.param({"optimizer": "adamw8bit", "train_dtype": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adamw"}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adafactor", "train_dtype": "bf16"}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(changes: dict[str, Any], tmp_path: Path) -> None:
    options = {"fused_backward": True, "train_text_encoder": True, **changes}
    whole = build_module(**options)
    train(whole, tmp_path / "whole")
    train(build_module(**options, iterations=2), tmp_path / "parts")
    resumed = build_module(**options)
    train(resumed, tmp_path / "parts")
    assert_same(resumed, whole)


def test_gradients_never_exist_together() -> None:
    def peak(fused: bool) -> int:
        module = build_module(fused_backward=fused, gradient_checkpointing="all", clip="global")
        module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        optimizer = module.build_optimizer()
        module.update_in_backward(optimizer)
        with Footprint() as footprint:
            footprint.watch(list(module.parameters()))
            module.training_step(batch_of(module, 0), 0).backward()
            if not fused:
                optimizer.step()
        assert fused == all(weight.grad is None for weight in module.trained_parameters())
        return footprint.peak

    bytes_of_weights = sum(weight.nbytes for weight in build_module().trained_parameters())
    assert peak(fused=False) - peak(fused=True) > 0.7 * bytes_of_weights

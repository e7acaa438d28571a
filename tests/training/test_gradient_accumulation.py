"""Several batches for one update: the same gradient as of one large batch, in less memory, and resumed bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import predict
from tests.training.parts import SHORT, assert_same, batch_of, build_module, train
from tests.training.test_memory import TINY


def step(**config: Any) -> tuple[float, list[Tensor]]:
    """The loss and the gradients of a step."""
    module = build_module(train_text_encoder=True, **config)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    loss = module.training_step(batch_of(module, 0), 0)
    loss.backward()
    return loss.item(), [weight.grad for weight in module.trained_parameters() if weight.grad is not None]


def test_it_is_the_gradient_of_a_batch_as_large_as_all_of_them() -> None:
    (expected, large), (loss, small) = step(batch_size=3), step(gradient_accumulation=3)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert step()[0] != pytest.approx(expected, rel=1e-3)
    for one, other in zip(small, large, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = build_module(gradient_accumulation=2)
    train(whole, tmp_path / "whole", autocast_dtype=torch.bfloat16)
    train(build_module(gradient_accumulation=2, iterations=2), tmp_path / "parts", autocast_dtype=torch.bfloat16)
    resumed = build_module(gradient_accumulation=2)
    train(resumed, tmp_path / "parts", autocast_dtype=torch.bfloat16)
    assert_same(resumed, whole)


@pytest.mark.slow
def test_it_needs_less_memory_than_a_large_batch() -> None:
    large = replace(TINY, height=128, width=128)
    alone, many, together = (
        predict(large, replace(SHORT, **config)).step
        for config in ({}, {"gradient_accumulation": 8}, {"batch_size": 8})
    )
    weights = sum(weight.nbytes for weight in build_module().trained_parameters())
    assert alone < many < alone + 1.1 * weights
    assert together > many


def test_updates_in_the_backward_pass_free_what_it_would_add_up() -> None:
    with pytest.raises(ValueError, match="fused_backward frees the gradients"):
        DreamBoothConfig(fused_backward=True, gradient_accumulation=2)

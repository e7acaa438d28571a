"""Optimizers and learning-rate schedules: factors by hand and in general; a new one is a line and a function."""

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ldm.choices import LR_SCHEDULES, OPTIMIZERS, Choice
from ldm.errors import UserError
from ldm.training.config import OptimizationConfig
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import MemoryProfile, profiles_with
from ldm.training.optimizers import OptimizerKind, lr_factors
from tests.training.parts import assert_same, build_module, each_update, train, weights


def build_sgd(
    weights: list[nn.Parameter], config: OptimizationConfig, seed: int, kernels: dict[str, Any]
) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, config.learning_rate, momentum=0.9, weight_decay=config.weight_decay, **kernels)


SGD = OptimizerKind("SGD with momentum", build_sgd, state_bytes_per_weight={"fp32": 8})


@pytest.fixture
def sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "sgd", Choice(f"{__name__}:SGD", "stochastic gradient descent, 4 bytes a weight"))


def test_a_new_optimizer_is_a_kind_and_a_line_in_the_table(sgd: None, tmp_path: Path) -> None:
    module = build_module(optimizer="sgd", learning_rate=0.01)
    before = weights(module)
    train(module, tmp_path)
    states = torch.load(tmp_path / "resume.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert all(state.keys() == {"momentum_buffer"} for state in states.values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(module).items())


def test_a_new_optimizer_is_known_to_the_memory_flags(sgd: None) -> None:
    assert profiles_with({"optimizer": "sgd"}) == [
        MemoryProfile("sgd", "fp32", level, fused) for fused in (False, True) for level in ("none", "attention", "all")
    ]
    assert str(MemoryProfile("sgd", "fp32", "none")).startswith("SGD with momentum on float32 weights")
    with pytest.raises(ValueError, match="the optimizer sgd takes no weights in bf16"):
        DreamBoothConfig(optimizer="sgd", train_dtype="bf16")


def test_without_its_package_an_optimizer_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)  # an import of it fails
    with pytest.raises(UserError, match="pip install prodigyopt"):
        OPTIMIZERS["prodigy"].load().raise_if_missing()


@pytest.mark.slow
def test_prodigy_trains_and_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": "prodigy", "learning_rate": 1.0}
    whole = build_module(**options)
    before = weights(whole)
    train(whole, tmp_path / "whole")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(whole).items())
    train(build_module(**options, iterations=2), tmp_path / "parts")
    resumed = build_module(**options)
    train(resumed, tmp_path / "parts")
    assert_same(resumed, whole)
    with pytest.raises(ValueError, match="prodigy needs all gradients at once"):
        DreamBoothConfig(optimizer="prodigy", fused_backward=True)


def test_a_new_schedule_is_a_function_and_a_line_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LR_SCHEDULES, "root", Choice("math:sqrt", "the square root of the progress"))
    with each_update() as updates:
        train(build_module(lr_schedule="root", learning_rate=1e-3), tmp_path)
    assert [update["lr"] for update in updates] == pytest.approx([1e-3 * math.sqrt(n / 4) for n in range(4)])


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="lr_schedule should be one of constant, linear, cosine, cooldown"):
        OptimizationConfig(lr_schedule="cool-down")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 1, 50: 1, 99: 1}),
        ("linear", {0: 1, 25: 0.75, 50: 0.5, 99: 0.01}),
        ("cosine", {0: 1, 50: 0.5, 75: 0.5 - 2**-1.5, 99: 0.000246720}),
        ("cooldown", {0: 1, 50: 1, 75: 1, 80: 0.8, 90: 0.4, 99: 0.04}),
        ("cosine-restarts", {0: 1, 25: 0.5, 49: 0.000986636, 50: 1, 75: 0.5, 99: 0.000986636}),
        ("polynomial", {0: 1, 50: 0.125, 90: 0.001}),
    ],
)
def test_schedules_by_hand(schedule: str, expected: dict[int, float]) -> None:
    factor = lr_factors(OptimizationConfig(lr_schedule=schedule, iterations=100, lr_cycles=2, lr_power=3.0))
    found = {step: factor(step) for step in expected}
    assert found == pytest.approx(expected, abs=1e-9)


@given(st.sampled_from([*{*LR_SCHEDULES} - {"cosine-restarts"}]), st.integers(1, 200), st.integers(1, 200))
def test_the_factor_rises_in_the_warm_up_and_never_after_it(schedule: str, warmup: int, rest: int) -> None:
    config = OptimizationConfig(lr_schedule=schedule, warmup_steps=warmup, iterations=warmup + rest)
    factors = [*map(lr_factors(config), range(warmup + rest + 1))]
    rising, falling = factors[: warmup + 1], factors[warmup:]
    assert rising[:-1] == pytest.approx([(step + 1) / (warmup + 1) for step in range(warmup)])
    assert factors[warmup] == 1.0
    assert all(b <= a for a, b in pairwise(falling))
    assert all(0.0 < factor <= 1.0 for factor in factors[:-1])
    assert factors[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=1e-12)


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    config = OptimizationConfig(lr_schedule="cosine", warmup_steps=7, iterations=4)
    assert [*map(lr_factors(config), range(4))] == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "options", "specific"),
    [
        ("constant", "constant_with_warmup", {}, {}),
        ("linear", "linear", {}, {}),
        ("cosine", "cosine", {}, {}),
        ("cosine-restarts", "cosine_with_restarts", {"lr_cycles": 3}, {"num_cycles": 3}),
        ("polynomial", "polynomial", {"lr_power": 1.5}, {"power": 1.5, "lr_end": 0.0}),
    ],
)
def test_after_the_warm_up_schedules_have_the_numbers_of_transformers(
    ours: str, theirs: str, options: dict[str, float], specific: dict[str, float]
) -> None:
    """The warm-up itself differs: theirs begins with an update at a rate of 0."""
    from transformers import get_scheduler  # takes seconds to import

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(theirs, optimizer, 5, 60, scheduler_specific_kwargs=specific or None)
    rates = []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    factor = lr_factors(OptimizationConfig(lr_schedule=ours, warmup_steps=5, iterations=60, **options))  # type: ignore[arg-type]
    assert [factor(step) for step in range(5, 60)] == pytest.approx(rates[5:], abs=1e-12)

"""Prior preservation without class images: the pull to the base weights, and the base model's predictions."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.data.batches import DeviceShare
from ldm.training.base_prediction import BasePredictions, PredictionInputs, predict_with_base
from ldm.training.base_pull import EVERY, BasePull, adapter_targets, base_targets
from ldm.training.dreambooth import DreamBooth
from tests.training.parts import SEED, Logging, assert_same, batch_of, build_module, moments, train, weights

SHARE = 0.02
TOGETHER = 1 - (1 - SHARE) ** EVERY
"""The share of the distance that one pull takes back."""


class Logged(Logging, DreamBooth):
    pass


def moved(module: DreamBooth) -> tuple[BasePull, dict[str, Tensor], Any]:
    """A pull to the weights as they are; then the weights after one large update, and the optimizer that made it."""
    base = weights(module)
    targets = (
        adapter_targets(module.adapters) if module.adapters else base_targets(dict(module.ldm.named_parameters()), base)
    )
    optimizer = module.build_optimizer()
    for weight in module.trained_parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return BasePull(targets, SHARE, SEED), base, optimizer


@pytest.mark.parametrize(
    ("optimizer", "train_dtype"),
    [
        ("adamw", "fp32"),
        ("adamw8bit", "bf16"),
        ("lion", "bf16"),
        pytest.param("adamw8bit", "bf16-rounded", marks=pytest.mark.slow),
        pytest.param("adafactor", "fp32", marks=pytest.mark.slow),
    ],
)
def test_a_pull_takes_back_its_share_of_the_distance_to_the_base_weights(optimizer: str, train_dtype: str) -> None:
    module = build_module(with_class=False, optimizer=optimizer, train_dtype=train_dtype, train_text_encoder=True)
    pull, base, made = moved(module)
    before = weights(module)
    pull.pull(made, EVERY)
    after = weights(module)
    trained = [name for name, weight in module.ldm.named_parameters() if weight.requires_grad]
    # Of all weights together: in bfloat16 each is rounded at random.
    away, left = (
        torch.cat([(some[name].float() - base[name].float()).flatten() for name in trained]) for some in (before, after)
    )
    assert left.dot(away) / away.dot(away) == pytest.approx(1 - TOGETHER, abs=1e-4 if train_dtype == "fp32" else 0.02)
    assert all(torch.equal(after[name], before[name]) for name in after if name not in trained)


def test_a_pull_shrinks_an_adapter_by_its_share() -> None:
    module = build_module(with_class=False, lora=2)
    pull, _, made = moved(module)
    before = [layer.delta() for layer in module.adapters]
    assert all(one.any() for one in before)
    pull.pull(made, EVERY)
    for layer, delta in zip(module.adapters, before, strict=True):
        torch.testing.assert_close(layer.delta(), (1 - TOGETHER) * delta)


def test_the_pull_follows_the_learning_rate() -> None:
    pull = BasePull({}, SHARE, SEED)
    shares = [pull.share_of({"lr": rate, "initial_lr": 1e-3}) for rate in (1e-3, 5e-4, 0.0)]
    assert shares == pytest.approx([TOGETHER, 1 - (1 - SHARE / 2) ** EVERY, 0.0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"optimizer": "adafactor", "train_dtype": "bf16", "fused_backward": True}, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_pulls_is_resumed_bit_for_bit_and_stays_nearer(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.training.base_pull.EVERY", 2)

    def trained(share: float, *stops: int) -> DreamBooth:
        for stop in stops:
            module = build_module(with_class=False, iterations=stop, save_every=stop, **options)
            base = weights(module)
            module.base_pull = BasePull(base_targets(dict(module.ldm.named_parameters()), base), share, SEED)
            train(module, tmp_path / f"{share} {stops}")
        return module

    whole, resumed, free = trained(0.2, 3), trained(0.2, 2, 3), trained(0.0, 3)
    assert_same(whole, resumed)
    start = weights(build_module(with_class=False))
    near, far = (
        sum((one - start[name].to(one)).square().sum().item() for name, one in weights(module).items())
        for module in (whole, free)
    )
    assert near < 0.9 * far


def inputs_of(count: int) -> PredictionInputs:
    return PredictionInputs(moments(3), 1000, count, SEED)


def predicted(module: DreamBooth, count: int) -> BasePredictions:
    context = module.class_context().detach()
    found = predict_with_base(module.ldm, context, inputs_of(count), 2, nullcontext)
    return BasePredictions(inputs_of(count), torch.cat([*found]))


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_the_base_model_itself_is_at_its_predictions_and_an_update_leaves_them(train_text_encoder: bool) -> None:
    module = build_module(
        cls=Logged, with_class=False, prior="base-prediction", batch_size=2, train_text_encoder=train_text_encoder
    )
    module.base_predictions = predicted(module, 5)
    batch = batch_of(module, 0)
    assert len(batch["moments"]) == module.images_per_step == 4
    assert len({*batch["timesteps"].tolist()}) > 1
    losses = module.losses(batch)
    assert losses["class"].item() < 1e-9 < losses["instance"].item()
    with torch.no_grad():
        for weight in module.trained_parameters():
            weight.mul_(1.1)
    assert module.losses(batch)["class"].item() > 1e-5


def test_the_class_half_has_the_photos_and_the_class_prompt() -> None:
    module = build_module(with_class=False, prior="base-prediction", batch_size=3)
    module.base_predictions = predicted(module, 6)
    batch = module.batches(DeviceShare(SEED, 3)).step(1)
    photos = moments(3).flatten(0, 1)
    for one in batch["moments"][3:]:
        assert any(torch.equal(one, photo) for photo in photos)
    context = module._context(batch)
    torch.testing.assert_close(context[3:], module.class_context().expand(3, -1, -1))
    assert not torch.equal(context[0], context[3])


def test_predictions_are_used_in_turn_and_their_inputs_depend_on_the_seed_alone() -> None:
    module = build_module(with_class=False, prior="base-prediction", batch_size=2)
    module.base_predictions = predicted(module, 4)
    steps = [module.batches(DeviceShare(SEED, 2)).step(step) for step in range(2)]
    seen = torch.cat([step["noise"][2:] for step in steps])
    again = inputs_of(4).of(range(4))["noise"]
    assert sorted(seen.sum((1, 2, 3)).tolist()) == sorted(again.sum((1, 2, 3)).tolist())


def test_only_the_photos_get_another_noise() -> None:
    """The class half's predictions belong to its own."""
    step, changed = (
        with_predictions(noise_offset=offset).batches(DeviceShare(SEED, 2)).step(1) for offset in (0.0, 0.5)
    )
    for name in ("noise", "input_noise"):
        assert torch.equal(changed[name][2:], step["noise"][2:])  # type: ignore[literal-required]
        assert not torch.equal(changed[name][:2], step["noise"][:2])  # type: ignore[literal-required]


def with_predictions(**values: float) -> DreamBooth:
    module = build_module(with_class=False, prior="base-prediction", batch_size=2, **values)
    module.base_predictions = predicted(module, 4)
    return module


@pytest.mark.slow
def test_gradient_accumulation_sums_to_the_gradient_of_one_large_batch() -> None:
    gradients = []
    for size, parts in ((2, 1), (1, 2)):
        module = build_module(
            cls=Logged, with_class=False, prior="base-prediction", batch_size=size, gradient_accumulation=parts
        )
        module.base_predictions = predicted(module, 4)
        with torch.no_grad():
            for weight in module.trained_parameters():
                weight.mul_(1.05)
        module.training_step(batch_of(module, 0), 0).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in module.trained_parameters()]))  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)

"""AdamW in few bits: compared with torch's, resumed from a file, and as small as claimed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.training.adamw_8bit import SMALL, AdamW8bit
from tests.training.parts import assert_same, build_module, weights
from tests.training.parts import train as fit

SIDE = 80
"""Of a matrix that is large enough for 8 bits."""


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(SIDE, SIDE), nn.Tanh(), nn.Conv1d(SIDE, SIDE, 1), nn.Tanh(), nn.Linear(1, 1))
    assert layers[0].weight.numel() > SMALL
    return layers.to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> list[float]:
    """Regression on batches that are a function of the step; the loss of each."""
    dtype = next(model.parameters()).dtype
    teacher = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(99)) / SIDE**0.5
    losses = []
    for step in range(first, first + steps):
        x = torch.randn(32, SIDE, generator=torch.Generator().manual_seed(step))
        hidden = model[1](model[0](x.to(dtype)))  # type: ignore[index]
        out = model[4](model[3](model[2](hidden[..., None])))[..., 0]  # type: ignore[index]
        loss = (out.float() - torch.tanh(x @ teacher)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().float().flatten() for parameter in model.parameters()])


def saved(value: Any) -> Any:
    """Through a file."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_lowers_the_error_as_torchs_adamw_does(dtype: torch.dtype) -> None:
    reference = network()
    expected = train(reference, torch.optim.AdamW(reference.parameters(), lr=2e-3), 200)
    model = network(dtype)
    losses = train(model, AdamW8bit(model.parameters(), lr=2e-3), 200)
    assert expected[0] > 3 * sum(expected[-20:]) / 20
    assert sum(losses[-20:]) == pytest.approx(sum(expected[-20:]), rel=0.05)


def test_small_tensors_are_updated_exactly() -> None:
    ours, theirs = (nn.Linear(20, 20) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        kind(model.parameters(), lr=1e-2, weight_decay=0.3)
        for kind, model in ((AdamW8bit, ours), (torch.optim.AdamW, theirs))
    ]
    for step in range(5):
        x = torch.randn(8, 20, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-5, atol=1e-6)


def test_the_first_step_of_large_ones_is_exact() -> None:
    """It uses the moments before they are rounded."""
    ours, theirs = network(), network()
    train(ours, AdamW8bit(ours.parameters()), 1)
    train(theirs, torch.optim.AdamW(theirs.parameters()), 1)
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_continued_it_is_the_uninterrupted_run_bit_for_bit(dtype: torch.dtype) -> None:
    whole = network(dtype)
    train(whole, AdamW8bit(whole.parameters(), seed=5), 8)

    first = network(dtype)
    optimizer = AdamW8bit(first.parameters(), seed=5)
    train(first, optimizer, 4)
    state = saved({"model": first.state_dict(), "optimizer": optimizer.state_dict()})
    before = saved(state)
    second = network(dtype)
    second.load_state_dict(state["model"])
    continued = AdamW8bit(second.parameters(), seed=5)
    continued.load_state_dict(state["optimizer"])
    train(second, continued, 4, first=4)
    assert torch.equal(flat(second), flat(whole))
    for name, values in before["optimizer"]["state"].items():  # what was given is not written to
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(state["optimizer"]["state"][name][key]), torch.as_tensor(value))


def test_the_state_of_other_weights_is_refused() -> None:
    model = network()
    optimizer = AdamW8bit(model.parameters())
    train(model, optimizer, 1)
    with pytest.raises(ValueError, match="the state of other weights"):
        AdamW8bit(network(torch.bfloat16).parameters()).load_state_dict(optimizer.state_dict())


def test_the_seed_decides_the_rounding() -> None:
    def rounded(seed: int) -> Tensor:
        model = network(torch.bfloat16)
        train(model, AdamW8bit(model.parameters(), seed=seed), 3)
        return flat(model)

    assert torch.equal(rounded(1), rounded(1))
    assert not torch.equal(rounded(1), rounded(2))


def test_where_buckets_are_cut_changes_little_and_a_tensor_may_lie_in_several() -> None:
    def losses(bucket: int) -> list[float]:
        model = network()
        return train(model, AdamW8bit(model.parameters(), lr=2e-3, bucket=bucket), 60)

    assert losses(1024)[-1] == pytest.approx(losses(1 << 20)[-1], rel=0.05)


@pytest.mark.parametrize(("dtype", "bytes_per_weight"), [(torch.float32, 2 + 8 / 256), (torch.bfloat16, 3 + 8 / 256)])
def test_its_state_takes_two_bytes_a_weight_and_one_more_for_bfloat16(
    dtype: torch.dtype, bytes_per_weight: float
) -> None:
    weight = nn.Parameter(torch.ones(512, 512, dtype=dtype))
    weight.grad = torch.ones_like(weight)
    optimizer = AdamW8bit([weight])
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == bytes_per_weight * weight.numel()


def test_a_missing_gradient_counts_as_zero() -> None:
    used, unused = (nn.Parameter(torch.ones(100, 100)) for _ in range(2))
    optimizer = AdamW8bit([used, unused], lr=0.1, weight_decay=0.5)
    used.grad = torch.ones_like(used)
    optimizer.step()
    torch.testing.assert_close(unused.detach(), torch.full((100, 100), 0.95))
    assert (used < 0.9).all()


def test_weights_may_lie_in_any_order_in_memory() -> None:
    def trained(layout: Callable[[Tensor], Tensor]) -> Tensor:
        weight = nn.Parameter(layout(torch.arange(64 * 64 * 9.0).reshape(64, 64, 3, 3) / 1e4))
        optimizer = AdamW8bit([weight], lr=0.1)
        weight.grad = torch.arange(64 * 64 * 9.0).reshape(64, 64, 3, 3).flip(0)
        optimizer.step()
        return weight.detach().contiguous()

    plain = trained(lambda x: x)
    torch.testing.assert_close(trained(lambda x: x.to(memory_format=torch.channels_last)), plain)


def test_other_types_are_refused() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="float32 or bfloat16, not"):
        AdamW8bit([weight]).step()


@pytest.mark.slow
@pytest.mark.parametrize("train_dtype", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_a_training_continued_from_its_resume_state_ends_with_the_same_bits(tmp_path: Path, train_dtype: str) -> None:
    options: dict[str, Any] = {"optimizer": "adamw8bit", "train_dtype": train_dtype, "train_text_encoder": True}
    whole = build_module(**options)
    fit(whole, tmp_path / "whole")
    fit(build_module(**options, iterations=2), tmp_path / "parts")
    continued = build_module(**options)
    fit(continued, tmp_path / "parts")
    half = {torch.bfloat16} if train_dtype == "bf16" else set()
    assert {tensor.dtype for tensor in weights(whole).values()} == {torch.float32} | half
    assert_same(continued, whole)


def test_after_loading_the_learning_rate_is_the_groups_own() -> None:
    layers = network(torch.float32)
    optimizer = AdamW8bit(layers.parameters(), lr=1e-2)
    sum(parameter.sum() for parameter in layers.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    before = [parameter.detach().clone() for parameter in layers.parameters()]
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(before, layers.parameters(), strict=True))

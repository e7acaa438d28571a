"""Optimizers that update one weight at a time: against their papers by hand, in chunks, in few bits, and their size."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.training import weightwise
from ldm.training.adafactor import Adafactor
from ldm.training.adamw_8bit import AdamW8bit
from ldm.training.came import CAME
from ldm.training.lion import Lion
from ldm.training.weightwise import SMALL, FirstMoment, WeightwiseOptimizer, row_ranges

OURS: list[type[WeightwiseOptimizer]] = [Adafactor, Lion, CAME]


def weight_of(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, count: int, first: int = 0) -> Tensor:
    """The weight after updates with gradients that are a function of the step."""
    for step in range(first, first + count):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(100 + step))
        weight.grad = gradient.to(weight.dtype)
        optimizer.step()
    return weight.detach().clone()


def adafactor_by_hand(weight: Tensor, gradients: list[Tensor], lr: float, decay: float) -> Tensor:
    """Algorithm 4 of arXiv 1804.04235 on a matrix."""
    rows, columns = torch.zeros(len(weight)), torch.zeros(weight.shape[1])
    for step, gradient in enumerate(gradients, 1):
        beta = 1 - step**-0.8
        rows = beta * rows + (1 - beta) * (gradient**2 + 1e-30).sum(1)
        columns = beta * columns + (1 - beta) * (gradient**2 + 1e-30).sum(0)
        update = gradient / torch.sqrt(torch.outer(rows, columns) / rows.sum())
        update = update / max(1.0, update.square().mean().sqrt().item())
        weight = (1 - lr * decay) * weight - lr * update
    return weight


@pytest.mark.parametrize("shape", [(6, 10), (5, 4, 3, 3)])
def test_adafactor_is_the_papers(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightwise, "CHUNK", 2 * torch.Size(shape[1:]).numel())  # two rows
    weight = weight_of(*shape)
    gradients = [
        torch.randn(shape, generator=torch.Generator().manual_seed(100 + step)).flatten(1) for step in range(3)
    ]
    expected = adafactor_by_hand(weight.detach().clone().flatten(1), gradients, 0.1, 0.2)
    found = steps(Adafactor([weight], lr=0.1, weight_decay=0.2), weight, 3)
    torch.testing.assert_close(found.flatten(1), expected)


def test_lion_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightwise, "CHUNK", 16)
    weight = weight_of(5, 9)
    expected, moment = weight.detach().clone(), torch.zeros(5, 9)
    for step in range(4):
        gradient = torch.randn(5, 9, generator=torch.Generator().manual_seed(100 + step))
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * (0.9 * moment + 0.1 * gradient).sign()
        moment = 0.99 * moment + 0.01 * gradient
    torch.testing.assert_close(steps(Lion([weight], lr=0.1, weight_decay=0.2), weight, 4), expected)


def test_came_is_its_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `CAME` of came-pytorch 0.1.3."""
    monkeypatch.setattr(weightwise, "CHUNK", 2 * 10)
    weight = weight_of(6, 10)
    expected, moment = weight.detach().clone(), torch.zeros(6, 10)
    factors = {name: [torch.zeros(6), torch.zeros(10)] for name in ("second", "instability")}

    def root(name: str, squares: Tensor, beta: float) -> Tensor:
        rows, columns = factors[name] = [
            beta * old + (1 - beta) * squares.mean(dim) for old, dim in zip(factors[name], (1, 0), strict=True)
        ]
        return torch.sqrt(torch.outer(rows, columns) / rows.mean())

    for step in range(3):
        gradient = torch.randn(6, 10, generator=torch.Generator().manual_seed(100 + step))
        update = gradient / root("second", gradient**2 + 1e-30, 0.999)
        update = update / max(1.0, update.square().mean().sqrt().item())
        moment = 0.9 * moment + 0.1 * update
        stable = moment / root("instability", (update - moment) ** 2 + 1e-16, 0.9999)
        expected = expected * (1 - 1e-3 * 0.2) - 1e-3 * stable
    torch.testing.assert_close(steps(CAME([weight], lr=1e-3, weight_decay=0.2), weight, 3), expected)


def test_a_first_moment_of_8_bits_is_stored_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weightwise, "CHUNK", 1000)
    values = torch.randn(70, 90, generator=torch.Generator().manual_seed(0))
    moment = FirstMoment(FirstMoment.new_state(values))
    ranges = row_ranges(70, 90)
    assert len(ranges) == 7
    for rows in ranges:
        moment.write(rows, values[rows], lambda some: torch.full_like(some, 0.5))
    found = torch.cat([moment.read(rows) for rows in ranges])
    assert (found - values).abs().max() < 0.02 * values.abs().max()


@pytest.mark.parametrize("kind", [Adafactor, Lion])
@pytest.mark.parametrize("keep_low_bits", [True, False])
def test_weights_in_bfloat16_follow_those_in_float32(kind: Any, keep_low_bits: bool) -> None:
    """Each step is less than half the distance of two numbers: rounding to the nearest would change nothing."""
    change = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.ones(128, 64, dtype=dtype))
        optimizer = kind([weight], lr=1e-3, keep_low_bits=keep_low_bits)
        for _ in range(20):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        change[dtype] = (weight.detach().float() - 1).mean().item()
    assert change[torch.float32] == pytest.approx(-0.02, rel=0.01)
    assert change[torch.bfloat16] == pytest.approx(-0.02, rel=0.03)


@pytest.mark.parametrize("kind", OURS)
def test_saved_and_continued_it_is_the_uninterrupted_run_bit_for_bit(kind: Any) -> None:
    assert SMALL < 64 * 80
    whole = weight_of(64, 80, dtype=torch.bfloat16)
    expected = steps(kind([whole], seed=3, lr=0.01), whole, 4)
    weight = weight_of(64, 80, dtype=torch.bfloat16)
    before = kind([weight], seed=3, lr=0.01)
    steps(before, weight, 2)
    after = kind([weight], seed=3, lr=0.01)
    after.load_state_dict(before.state_dict())
    assert torch.equal(steps(after, weight, 2, first=2), expected)
    other = weight_of(64, 80, dtype=torch.bfloat16)
    assert not torch.equal(steps(kind([other], seed=4, lr=0.01), other, 4), expected)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (Adafactor, {"keep_low_bits": False}, 4 * (64 + 576)),
        (Adafactor, {}, 4 * (64 + 576) + 64 * 576),
        (Lion, {"keep_low_bits": False}, 64 * 576 * (1 + 4 / 256)),
        (CAME, {"keep_low_bits": False}, 64 * 576 * (1 + 4 / 256) + 2 * 4 * (64 + 576)),
        (AdamW8bit, {"keep_low_bits": False, "apart": True}, 64 * 576 * (2 + 8 / 256)),
    ],
)
def test_how_much_is_kept(kind: Any, options: dict[str, Any], expected: int) -> None:
    optimizer = kind([weight_of(64, 64, 3, 3, dtype=torch.bfloat16)], **options)
    optimizer.create_state()
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == expected


def test_weights_apart_are_updated_in_any_order_and_those_without_a_gradient_stay() -> None:
    def updated(order: tuple[int, ...]) -> list[Tensor]:
        weights = [weight_of(64, 80, dtype=torch.bfloat16) for _ in range(3)]
        optimizer = AdamW8bit(weights, lr=0.1, apart=True)
        for index in order:
            weights[index].grad = torch.ones_like(weights[index])
            optimizer.update(weights[index])
            weights[index].grad = None
        optimizer.step()
        return [weight.detach() for weight in weights]

    forward, backward = updated((0, 1)), updated((1, 0))
    assert all(torch.equal(one, other) for one, other in zip(forward, backward, strict=True))
    assert torch.equal(forward[2], weight_of(64, 80, dtype=torch.bfloat16))
    assert not torch.equal(forward[0], forward[1])  # rounded by other random numbers

"""The moving average of the weights: by hand, and that swapping it in and out loses nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ldm.training.ema import WeightAverage


def line(weight: float, bias: float = 0.0) -> nn.Linear:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def averaged(average: WeightAverage, network: nn.Module) -> list[Tensor]:
    """A copy of the averaged weights."""
    with average.swapped_in():
        return [parameter.detach().clone() for parameter in network.parameters()]


def test_it_begins_with_the_weights() -> None:
    network = line(3.0, bias=-1.0)
    assert [weight.item() for weight in averaged(WeightAverage({"line": network}, 0.9), network)] == [3.0, -1.0]


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        # From 0, with weights 1, 2, 3: the decays are 2/11, 3/12 and 4/13, or 0.2 where that is smaller.
        (0.9999, [9 / 11, 9 / 11 * 3 / 12 + 2 * 9 / 12, (9 / 11 * 3 / 12 + 2 * 9 / 12) * 4 / 13 + 3 * 9 / 13]),
        (0.2, [9 / 11, 9 / 11 * 0.2 + 2 * 0.8, (9 / 11 * 0.2 + 2 * 0.8) * 0.2 + 3 * 0.8]),
        (0.0, [1.0, 2.0, 3.0]),
    ],
)
def test_the_first_updates_by_hand(decay: float, expected: list[float]) -> None:
    network = line(0.0)
    average = WeightAverage({"line": network}, decay)
    averages = []
    for step in (1, 2, 3):
        nn.init.constant_(network.weight, float(step))
        average.update(step)
        averages.append(averaged(average, network)[0].item())
    assert averages == pytest.approx(expected, rel=1e-6)


def test_late_updates_use_the_whole_decay() -> None:
    network = line(0.0)
    average = WeightAverage({"line": network}, 0.99)
    nn.init.constant_(network.weight, 1.0)
    average.update(100_000)
    assert averaged(average, network)[0].item() == pytest.approx(0.01, rel=1e-5)


def test_swapping_in_and_out_keeps_every_bit_of_both() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))
    average = WeightAverage({"net": network}, 0.5)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    average.update(3)
    weights = [parameter.detach().clone() for parameter in network.parameters()]
    means = averaged(average, network)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), weights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(averaged(average, network), means, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights, means, strict=True))


def test_an_error_within_swaps_back() -> None:
    network = line(0.0)
    average = WeightAverage({"line": network}, 0.5)
    nn.init.constant_(network.weight, 1.0)
    with pytest.raises(RuntimeError, match="the disk"), average.swapped_in():
        assert network.weight.item() == 0.0
        raise RuntimeError("the disk is full")
    assert network.weight.item() == 1.0


def test_optimizers_keep_their_weights_while_it_is_swapped_in() -> None:
    """The tensors are the same, with other values."""
    network = line(0.0)
    before = [parameter.data_ptr() for parameter in network.parameters()]
    with WeightAverage({"line": network}, 0.5).swapped_in():
        assert [parameter.data_ptr() for parameter in network.parameters()] == before


def test_it_is_in_the_state_of_its_module_and_needs_no_gradient() -> None:
    network = nn.Sequential(line(2.0), line(4.0))
    average = WeightAverage({"first": network[0], "second": network[1]}, 0.5)
    assert not list(average.parameters())
    assert {name: value.item() for name, value in average.state_dict().items()} == {
        "first/weight": 2.0,
        "first/bias": 0.0,
        "second/weight": 4.0,
        "second/bias": 0.0,
    }
    for parameter in network.parameters():
        nn.init.constant_(parameter, 8.0)
    other = WeightAverage({"first": line(0.0), "second": line(0.0)}, 0.5)
    average.update(1)
    other.load_state_dict(average.state_dict())
    assert all(torch.equal(other.state_dict()[name], value) for name, value in average.state_dict().items())


@pytest.mark.parametrize("move", [lambda module: module.double(), lambda module: module.to("cpu")])
def test_it_follows_weights_that_are_moved(move: Callable[[nn.Module], nn.Module]) -> None:
    """`.to` changes the weights in place, as Lightning does when training begins."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = line(1.0)
            self.average = WeightAverage({"line": self.network}, 0.5)

    both = Both()
    move(both)
    nn.init.constant_(both.network.weight, 12.0)
    both.average.update(1)
    assert averaged(both.average, both.network)[0].item() == pytest.approx(1 * 2 / 11 + 12 * 9 / 11)

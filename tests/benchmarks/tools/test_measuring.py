"""Taking turns, medians with ranges, and ratios of neighbours in time."""

import pytest
import torch

from benchmarks.tools.measuring import Spread, digits, ratio, take_turns


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def turn(name: str, seconds: list[float]) -> float:
        order.append(name)
        return seconds.pop(0)

    a, b = [9.0, 3.0, 1.0, 2.0], [9.0, 6.0, 5.0, 4.0]
    times = take_turns({"a": lambda: turn("a", a), "b": lambda: turn("b", b)}, runs=3)
    assert order == ["a", "b"] * 4
    assert times["a"].values == (3.0, 1.0, 2.0) and times["a"].median == 2.0
    assert str(times["b"]) == "5 (4 to 6)"
    assert ratio(times["b"].values, times["a"].values).values == (2.0, 5.0, 2.0)


def test_one_for_which_memory_is_too_small_drops_out(capsys: pytest.CaptureFixture[str]) -> None:
    def too_large() -> float:
        raise torch.OutOfMemoryError

    assert take_turns({"large": too_large, "small": lambda: 1.0}, runs=2) == {"small": Spread((1.0, 1.0))}
    assert "large: the device's memory is too small" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1234"), (12.345, "12.3"), (0.012345, "0.0123"), (0.000012, "1.2e-05"), (0.0, "0"), (-12.345, "-12.3")],
)
def test_three_digits(value: float, shown: str) -> None:
    assert digits(value) == shown


def test_other_units() -> None:
    assert Spread((1.0, 2.0)).scaled(1000).values == (1000.0, 2000.0)

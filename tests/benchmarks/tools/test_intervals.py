"""The intervals of shares and means, by hand."""

import math

import pytest

from benchmarks.tools.intervals import Count, mean, wilson


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson(0, 20)
    assert low == pytest.approx(0.0, abs=1e-12) and high == pytest.approx(1.96**2 / (20 + 1.96**2))
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_counts_add_up_and_are_shown_in_percent() -> None:
    assert Count(3, 4) + Count(2, 6) == Count(5, 10)
    assert str(Count(5, 10)) == "50.0 (23.7 to 76.3)"
    assert str(Count(0, 0)) == "-" and math.isnan(Count(0, 0).percent)


def test_the_interval_of_a_mean_is_by_its_standard_error() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5 and found.count == 4
    assert found.half == pytest.approx(1.96 * math.sqrt(5 / 3) / 2)
    assert math.isnan(mean([1.0]).half)

"""LMS: the weights of its slopes. scipy, which diffusers' scheduler needs, is not among the requirements."""

import numpy as np
import pytest

from ldm.diffusion.samplers.lms import weights_of_slopes


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([0.0], [1.0]),
        ([0.0, -1.0], [3 / 2, -1 / 2]),
        ([0.0, -1.0, -2.0], [23 / 12, -16 / 12, 5 / 12]),
        ([0.0, -1.0, -2.0, -3.0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]),
    ],
)
def test_with_equal_steps_they_are_adams_and_bashforths(nodes: list[float], expected: list[float]) -> None:
    assert weights_of_slopes(nodes, 1.0) == pytest.approx(expected)


def test_with_unequal_steps_cubic_slopes_are_integrated_exactly() -> None:
    nodes, end = [2.1, 3.7, 6.0, 14.6], 0.9
    weights = weights_of_slopes(nodes, end)
    for power in range(4):
        exact = (end ** (power + 1) - nodes[0] ** (power + 1)) / (power + 1)
        assert np.dot(weights, np.array(nodes) ** power) == pytest.approx(exact, rel=1e-10)

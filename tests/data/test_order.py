"""The endless shuffled order: everything before anything again, from (seed, position) alone."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from ldm.data.order import ShuffledOrder


@given(size=st.integers(1, 40), seed=st.integers(0, 2**62), epoch=st.integers(0, 10**6))
def test_all_are_visited_before_any_comes_again(size: int, seed: int, epoch: int) -> None:
    order = ShuffledOrder(size, seed)
    assert sorted(order(epoch * size + place) for place in range(size)) == list(range(size))


@given(size=st.integers(1, 40), seed=st.integers(0, 2**62), positions=st.lists(st.integers(0, 10**9), max_size=5))
def test_a_position_alone_decides(size: int, seed: int, positions: list[int]) -> None:
    """Whatever was asked before, as after a resume."""
    order = ShuffledOrder(size, seed)
    assert [order(position) for position in positions] == [ShuffledOrder(size, seed)(p) for p in positions]


def test_every_round_seed_and_stream_shuffles_anew() -> None:
    def rounds(seed: int, stream: int) -> list[tuple[int, ...]]:
        order = ShuffledOrder(20, seed, stream)
        return [tuple(order(first + place) for place in range(20)) for first in (0, 20, 40)]

    seen = [one for seed in (0, 1) for stream in (0, 1) for one in rounds(seed, stream)]
    assert len(set(seen)) == len(seen) == 12
    assert tuple(range(20)) not in seen


def test_no_place_has_a_favourite() -> None:
    first = [ShuffledOrder(4, seed)(0) for seed in range(400)]
    assert all(70 < first.count(index) < 130 for index in range(4))


def test_it_can_be_sent_to_another_process() -> None:
    order = ShuffledOrder(9, seed=3, stream=1)
    order(0)
    other = pickle.loads(pickle.dumps(order))
    assert [other(position) for position in range(30)] == [order(position) for position in range(30)]

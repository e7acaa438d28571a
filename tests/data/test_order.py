"""The endless shuffled order: every index once in each round, from (seed, position) alone."""

from hypothesis import given
from hypothesis import strategies as st

from ldm.data.batches import ShuffledOrder


@given(size=st.integers(1, 40), seed=st.integers(0, 2**62), epoch=st.integers(0, 10**6))
def test_every_round_has_each_index_once(size: int, seed: int, epoch: int) -> None:
    order = ShuffledOrder(size, seed)
    assert sorted(order(epoch * size + place) for place in range(size)) == list(range(size))


@given(size=st.integers(1, 40), seed=st.integers(0, 2**62), positions=st.lists(st.integers(0, 10**9), max_size=5))
def test_a_position_alone_decides(size: int, seed: int, positions: list[int]) -> None:
    order = ShuffledOrder(size, seed)
    assert [order(position) for position in positions] == [ShuffledOrder(size, seed)(p) for p in positions]


def test_every_round_seed_and_stream_shuffles_anew() -> None:
    def rounds(seed: int, stream: int) -> list[tuple[int, ...]]:
        order = ShuffledOrder(20, seed, stream)
        return [tuple(order(first + place) for place in range(20)) for first in (0, 20, 40)]

    orders = [one for seed in (0, 1) for stream in (0, 1) for one in rounds(seed, stream)]
    assert len(set(orders)) == len(orders) == 12
    assert tuple(range(20)) not in orders


def test_no_place_has_a_favourite() -> None:
    first = [ShuffledOrder(4, seed)(0) for seed in range(400)]
    assert all(70 < first.count(index) < 130 for index in range(4))

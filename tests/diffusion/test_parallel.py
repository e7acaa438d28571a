"""Drawing with several workers: who computes with how many threads, the order, errors, and that no bit changes."""

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.diffusion.guidance import classifier_free
from ldm.diffusion.parallel import WorkerPool, threads_for
from ldm.diffusion.sampling import SamplingConfig, sample_images
from tests.oracle import small_ldm

TINY = 10_800_000, 16 * 16
STABLE_DIFFUSION = 860_000_000, 64 * 64


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_a_small_network_gets_one_thread_and_stable_diffusion_all() -> None:
    assert [threads_for(*TINY, cores) for cores in (1, 2, 16)] == [1, 1, 1]
    assert [threads_for(*STABLE_DIFFUSION, cores) for cores in (1, 2, 64)] == [1, 2, 64]


@given(st.integers(1, 10**10), st.integers(1, 10**6), st.integers(1, 256))
def test_there_are_never_more_threads_than_cores(weights: int, pixels: int, cores: int) -> None:
    assert 1 <= threads_for(weights, pixels, cores) <= cores
    assert threads_for(weights, pixels, cores) <= threads_for(2 * weights, pixels, cores)


def test_a_pool_of_one_works_where_it_is_called(four_threads: None) -> None:
    this_thread = threading.current_thread()
    results = list(WorkerPool().map("abc", lambda item: (item, threading.current_thread(), torch.get_num_threads())))
    assert results == [(item, (item, this_thread, 4)) for item in "abc"]


def test_workers_compute_at_the_same_time_with_their_own_number_of_threads(four_threads: None) -> None:
    both = threading.Barrier(2, timeout=20)

    def sample(item: int) -> int:
        both.wait()
        return torch.get_num_threads()

    assert [threads for _, threads in WorkerPool(2, threads=2).map(range(4), sample)] == [2] * 4
    assert torch.get_num_threads() == 4
    counts: list[int] = []
    other = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert counts == [4]


def test_a_consumer_that_stops_leaves_no_thread_behind() -> None:
    results = WorkerPool(2, threads=1).map(range(100), lambda item: item)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sample")]


def test_images_of_several_workers_are_those_of_one() -> None:
    ldm, config = small_ldm(), SamplingConfig(height=64, width=64, num_steps=3, guidance_scale=2.0)
    context = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(0))

    def sample(seed: int) -> torch.Tensor:
        return sample_images(ldm, classifier_free(context, torch.zeros_like(context), 2.0), [seed], config)

    one = WorkerPool(2, threads=1).map(range(5), sample)
    other = WorkerPool(1).map(range(5), sample)  # the tests run with one thread
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))

"""Memory: peaks counted by hand, fake tensors against real ones, and free memory with CUDA simulated."""

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldm.nn.memory import Footprint, apply_in_batches, free_memory, on_host, peak_bytes
from ldm.nn.unet import UNet, UNetConfig

SQUARE = 100 * 100 * 4
"""Bytes of a 100 x 100 matrix."""


def matrix(requires_grad: bool = False) -> Tensor:
    return torch.ones(100, 100, requires_grad=requires_grad)


def squares(count: int) -> Callable[[Tensor], Tensor]:
    def chain(x: Tensor) -> Tensor:
        for _ in range(count):
            x = x.mul(x)
        return x

    return chain


def chain_without_gradient() -> None:
    squares(5)(matrix())  # the one read and the one written


def chain_with_gradient() -> None:
    squares(5)(matrix(requires_grad=True))  # each product keeps its factor


def backward_through_a_chain() -> None:
    squares(3)(matrix(requires_grad=True)).sum().backward()


def checkpointed_chain() -> None:
    checkpoint(squares(5), matrix(requires_grad=True), use_reentrant=False)


def in_place() -> None:
    x = matrix()
    for _ in range(5):
        x.mul_(2).add_(1)


def views() -> None:
    x = matrix()
    parts = [x.t(), x[:50], x.view(-1), x.chunk(4), x.expand(7, 100, 100)]
    assert len(parts) == 5


def freed_before() -> None:
    x = matrix()
    del x
    matrix()


@pytest.mark.parametrize("fake", [True, False], ids=["fake", "real"])
@pytest.mark.parametrize(
    ("function", "matrices"),
    [
        (chain_without_gradient, 2),
        (chain_with_gradient, 6),
        (checkpointed_chain, 3),
        (in_place, 1),
        (views, 1),
        (freed_before, 1),
    ],
)
def test_peaks_counted_by_hand(function: Callable[[], None], matrices: int, fake: bool) -> None:
    assert peak_bytes(function, fake=fake) == matrices * SQUARE


def test_a_backward_pass_frees_memory_as_it_goes() -> None:
    kept = 4  # the input and three products
    peak = peak_bytes(backward_through_a_chain)
    assert kept * SQUARE < peak < (kept + 5) * SQUARE
    assert peak == peak_bytes(backward_through_a_chain, fake=False)


def test_nothing_is_computed_or_allocated() -> None:
    sizes = []

    def huge() -> None:
        x = torch.ones(1 << 20, 1 << 20)
        sizes.append((x @ x).shape)

    assert peak_bytes(huge) == 2 * (1 << 40) * 4
    assert sizes == [(1 << 20, 1 << 20)]


def test_tensors_made_before_count_once_they_are_used_or_watched() -> None:
    used, watched, unused = matrix(), matrix(), matrix()
    with Footprint() as footprint:
        footprint.watch({"tensors": [watched, watched.t()], "other": 1})
        assert footprint.live == SQUARE
        used.add_(1)
    assert footprint.peak == 2 * SQUARE
    assert unused.any()


def test_restart_forgets_the_peak_but_not_live_tensors() -> None:
    with Footprint() as footprint:
        kept = matrix()
        chain_without_gradient()
        footprint.restart()
        assert footprint.peak == footprint.live == SQUARE
        kept.add(1)
    assert (footprint.peak, footprint.live) == (2 * SQUARE, SQUARE)


CONFIG = UNetConfig(model_channels=32, channel_mult=(1,), attention_resolutions=(1,), num_res_blocks=1, context_dim=16)


def train_unet(size: int, autocast: bool, fused: bool, checkpointing: bool) -> None:
    """Two updates as in training."""
    unet = UNet(CONFIG)
    nn.init.ones_(unet.out[2].weight)
    unet.set_gradient_checkpointing("all" if checkpointing else "none")
    optimizer = torch.optim.AdamW(unet.parameters(), fused=fused)
    latents, context = torch.ones(2, 4, size, size), torch.ones(2, 7, 16)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            loss = unet(latents, torch.tensor([3, 500]), context).float().square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("autocast", "fused", "checkpointing"),
    [pytest.param(False, False, True, marks=pytest.mark.slow), (True, True, False)],
)
def test_fake_and_real_training_steps_need_the_same(autocast: bool, fused: bool, checkpointing: bool) -> None:
    fake, real = (
        peak_bytes(lambda: train_unet(16, autocast, fused, checkpointing), fake=fake) for fake in (True, False)
    )
    assert fake == pytest.approx(real, rel=0.01)  # what some real kernels return beside their result differs


def test_attention_keeps_no_matrix_of_all_pairs() -> None:
    """Between 4096 pixels the scores alone would be 67 MB a head."""

    def attend() -> None:
        q, k, v = (torch.ones(1, 2, 4096, 40, requires_grad=True) for _ in range(3))
        F.scaled_dot_product_attention(q, k, v).sum().backward()

    assert peak_bytes(attend) < 16 * 2 * 4096 * 40 * 4


@pytest.mark.slow
def test_the_allocator_agrees() -> None:
    """The profiler's allocations, which it counts without storages and weak references."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        train_unet(32, False, True, False)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert peak == pytest.approx(peak_bytes(lambda: train_unet(32, False, True, False)), rel=0.1)


def test_torchs_cache_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = [3]
    monkeypatch.setattr(torch.cuda, "empty_cache", cached.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * device.index - sum(cached), 40))
    assert free_memory(torch.device("cuda", 2)) == 20


@pytest.mark.parametrize("kind", ["cpu", "mps", "meta"])
def test_free_memory_of_other_devices_is_unknown(kind: str) -> None:
    assert free_memory(torch.device(kind)) is None


@pytest.mark.parametrize(("count", "sizes"), [(5, [2, 2, 1]), (2, [2]), (0, [1])])
def test_inputs_of_any_number_are_computed_in_batches(count: int, sizes: list[int]) -> None:
    inputs, given = torch.arange(3.0 * count).reshape(count, 3), []

    def function(batch: Tensor) -> Tensor:
        given.append(len(batch))
        return 2 * batch

    assert torch.equal(apply_in_batches(inputs, 2, function), 2 * inputs)
    assert given == sizes


def test_on_the_host_networks_wait_and_are_then_back_with_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, moved = nn.Linear(4, 4), []
    monkeypatch.setattr(Tensor, "cpu", lambda self: moved.append(self.shape) or self.double())  # stands for the host
    before = layers.weight.detach().clone()
    with on_host([layers]):
        assert moved == [(4, 4), (4,)] and layers.weight.dtype == torch.float64
        layers.weight.data = layers.weight.float()
    assert torch.equal(layers.weight, before) and layers.weight.device == before.device

"""Graphed calls: buffers and replays with CUDA's capture simulated, and the real captures."""

import contextlib
import itertools
import logging
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ldm.nn.graphed import Capture, GraphedCall, _side_stream, capture_compiled, capture_cuda_graph
from tests.oracle import BOUND, new_unet, rel, tensors
from tests.simulated_capture import SimulatedCapture
from tests.tiny import build_tiny_model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def affine(x: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
    return x * pair[0] + pair[1]


A, B, C = noise(2, 3, seed=1), noise(2, 3, seed=2), noise(2, 3, seed=3)


def test_replays_give_the_functions_results() -> None:
    capture = SimulatedCapture()
    graphed = GraphedCall(affine, capture)
    for seed in range(4):
        x, scale, shift = (noise(2, 3, seed=10 * seed + i) for i in range(3))
        assert torch.equal(graphed(x, (scale, shift)), x * scale + shift)
    assert (capture.captured, capture.replayed) == (1, 4)  # the first replay is compared with the eager call


def test_outputs_are_overwritten_by_the_next_call_but_not_those_of_the_first() -> None:
    graphed = GraphedCall(affine, SimulatedCapture())
    first, second = graphed(A, (B, C)), graphed(B, (B, C))
    third = graphed(C, (B, C))
    assert third is second
    assert torch.equal(third, affine(C, (B, C)))
    assert torch.equal(first, affine(A, (B, C)))


def test_an_input_that_is_the_same_object_is_not_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graphed, copied = GraphedCall(affine, SimulatedCapture()), []
    graphed(A, (B, C))
    copy = Tensor.copy_

    def watched(self: Tensor, source: Tensor, *options: Any) -> Tensor:
        copied.append(source)
        return copy(self, source, *options)

    monkeypatch.setattr(Tensor, "copy_", watched)
    graphed(A.clone(), (B, C))
    assert len(copied) == 2  # the new first input, and the simulated output
    assert torch.equal(copied[0], A)


@pytest.mark.parametrize("inference", [False, True])
def test_another_object_is_copied_even_if_its_memory_is_that_of_the_last(inference: bool) -> None:
    with torch.inference_mode(inference):
        graphed = GraphedCall(affine, SimulatedCapture())
        x = noise(2, 3)
        graphed(x, (B, C))
        graphed(x.clone(), (B, C))
        x.mul_(2.0)
        assert torch.equal(graphed(x.view(2, 3), (B, C)), affine(x, (B, C)))


def test_an_input_that_was_changed_in_place_is_copied_again() -> None:
    graphed, x = GraphedCall(affine, SimulatedCapture()), noise(2, 3)
    graphed(x, (B, C))
    x.mul_(2.0)
    assert torch.equal(graphed(x, (B, C)), affine(x, (B, C)))


@pytest.mark.parametrize(
    "other",
    [(A[:1], (B[:1], C[:1])), (A.double(), (B.double(), C.double())), (A, (B, C[:1])), (A, (B, C, C))],
    ids=["a smaller batch", "another type", "one of another shape", "another structure"],
)
def test_other_shapes_types_and_structures_run_eagerly(other: tuple[Any, ...]) -> None:
    capture = SimulatedCapture()
    graphed = GraphedCall(affine, capture)
    graphed(A, (B, C))
    assert torch.equal(graphed(*other), affine(*other))
    assert (capture.captured, capture.replayed) == (1, 1)
    assert torch.equal(graphed(B, (B, C)), affine(B, (B, C)))
    assert (capture.captured, capture.replayed) == (1, 2)


def test_inputs_and_outputs_may_be_dictionaries() -> None:
    def function(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return batch["x"] + 1, {name: 2 * tensor for name, tensor in batch.items()}

    capture = SimulatedCapture()
    graphed = GraphedCall(function, capture)
    for x, y in ((A, B), (B, C), (C, A)):
        shifted, doubled = graphed({"x": x, "y": y})
        assert torch.equal(shifted, x + 1)
        assert all(torch.equal(doubled[name], 2 * tensor) for name, tensor in (("x", x), ("y", y)))
    assert graphed({"z": C, "x": A})[1].keys() == {"z", "x"}
    assert (capture.captured, capture.replayed) == (1, 3)


def test_a_call_that_can_not_be_captured_leaves_the_state_of_an_eager_one() -> None:
    layer = nn.Linear(3, 1, bias=False)

    def step(x: Tensor) -> Tensor:
        layer.zero_grad()
        loss = layer(x).sum()
        loss.backward()
        return loss.detach()

    GraphedCall(step, failing)(A)  # type: ignore[arg-type]
    assert torch.equal(layer.weight.grad, A.sum(0, keepdim=True))  # type: ignore[arg-type]


def test_strides_are_kept_and_an_expanded_input_gets_memory_of_its_own() -> None:
    calls = []

    def function(x: Tensor, y: Tensor) -> Tensor:
        calls.append((x.stride(), y.stride()))
        return x + y

    graphed = GraphedCall(function, SimulatedCapture())
    for seed in range(2):
        x, y = noise(3, 2, seed=seed).T, noise(1, 3, seed=seed + 2).expand(2, 3)
        assert torch.equal(graphed(x, y), x + y)
    assert calls[1][0] == x.stride()
    assert 0 not in calls[1][1]


def failing(call: Callable[[], Any], device: torch.device) -> Any:
    call()
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def stale(call: Callable[[], Any], device: torch.device) -> Any:
    """Replays nothing, like a graph that reads other memory."""
    return (lambda: None), call()


def broken(call: Callable[[], Any], device: torch.device) -> Any:
    outputs = call()
    return (lambda: outputs.fill_(float("nan"))), outputs


@pytest.mark.parametrize(
    ("capture", "words"), [(failing, "operation not permitted"), (stale, "other numbers"), (broken, "other numbers")]
)
def test_a_failed_capture_is_warned_about_once_and_the_call_runs_eagerly(
    capture: Capture, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    graphed = GraphedCall(affine, capture)
    assert graphed.works
    with caplog.at_level(logging.WARNING, logger="ldm"):
        for x in (A, B, C):
            assert torch.equal(graphed(x, (B, C)), affine(x, (B, C)))
    assert not graphed.works
    assert len(caplog.messages) == 1
    assert words in caplog.text
    assert "more" not in caplog.text


def test_an_error_of_the_function_itself_comes_through() -> None:
    def function(x: Tensor) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        GraphedCall(function, SimulatedCapture())(A)


def test_weights_may_change_in_place_and_be_replaced_before_forget() -> None:
    capture = SimulatedCapture()
    weight = [noise(2, 3)]
    old = weight[0]

    def graph(call: Callable[[], Any], device: torch.device) -> Any:
        """Uses the weight that it was captured with, as a graph's pointers do."""
        replay, outputs = capture(call, device)

        def with_old_weight() -> None:
            now, weight[0] = weight[0], held
            replay()
            weight[0] = now

        held = weight[0]
        return with_old_weight, outputs

    graphed = GraphedCall(lambda x: x * weight[0], graph)
    graphed(A)
    old.mul_(2.0)
    assert torch.equal(graphed(A), A * old)
    weight[0] = noise(2, 3, seed=5)
    assert torch.equal(graphed(A), A * old)
    graphed.forget()
    for x in (A, B):
        assert torch.equal(graphed(x), x * weight[0])
    assert capture.captured == 2


def test_other_shapes_may_be_captured_after_forget() -> None:
    capture = SimulatedCapture()
    graphed = GraphedCall(affine, capture)
    graphed(A, (B, C))
    graphed.forget()
    for x in (A[:1], B[:1]):
        assert torch.equal(graphed(x, (B[:1], C[:1])), affine(x, (B[:1], C[:1])))
    assert (capture.captured, capture.replayed) == (2, 3)


class Losses(NamedTuple):
    total: Tensor
    half: Tensor


def test_forward_and_backward_can_be_captured_together() -> None:
    """Gradients keep their memory and are set in each call, as in a training step."""
    layer, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(layer.state_dict())
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step(x: Tensor) -> Losses:
        for parameter in layer.parameters():
            parameter.grad.zero_()  # type: ignore[union-attr]
        loss = layer(x).square().mean()
        loss.backward()
        return Losses(loss.detach(), loss.detach() / 2)

    graphed = GraphedCall(step, SimulatedCapture())
    for seed in range(3):
        x = noise(4, 3, seed=seed)
        losses = graphed(x)
        plain.zero_grad()
        expected = plain(x).square().mean()
        expected.backward()
        assert torch.equal(losses.total, expected.detach())
        assert torch.equal(losses.half, expected.detach() / 2)
        for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


@torch.inference_mode()
def test_the_unet_with_a_projected_context_can_be_captured() -> None:
    unet, latents = build_tiny_model().unet, noise(1, 4, 4, 4)
    graphed = GraphedCall(unet, SimulatedCapture())
    for seed, timestep in ((1, 7), (1, 500), (2, 500)):
        context, timesteps = noise(1, 77, 32, seed=seed), torch.tensor([timestep])
        expected = unet(latents, timesteps, context)
        assert torch.equal(graphed(latents, timesteps, unet.project_context(context)), expected)


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_unet_predicts_the_same_also_with_replaced_weights(backend: str) -> None:
    unet = build_tiny_model().unet.requires_grad_(False)
    graphed = GraphedCall(unet, partial(capture_compiled, backend=backend))
    for gain in (1.0, 2.0):
        weight = nn.Parameter(unet.out[2].weight * gain, requires_grad=False)
        unet.out[2].weight = weight  # type: ignore[union-attr]
        graphed.forget()
        for seed in range(3):
            latents, timesteps, context = noise(1, 4, 4, 4, seed=seed), torch.tensor([seed]), noise(1, 77, 32)
            replayed = graphed(latents, timesteps, unet.project_context(context))
            assert rel(replayed, unet(latents, timesteps, context)) < BOUND
    assert graphed.works


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Simulates CUDA: lists the streams entered, and when the cache is emptied."""
    calls: list[Any] = []

    def enter(stream: Any, **options: Any) -> contextlib.AbstractContextManager[None]:
        calls.append(getattr(stream, "number", "main"))
        return contextlib.nullcontext()

    main, numbers = SimpleNamespace(wait_stream=lambda other: None), itertools.count()
    monkeypatch.setattr(
        torch.cuda, "Stream", lambda device: SimpleNamespace(number=next(numbers), wait_stream=lambda other: None)
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: main)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "stream", enter)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream, **options: enter(stream))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    _side_stream.cache_clear()
    return calls


def test_all_cuda_graphs_are_warmed_up_and_captured_on_one_side_stream(cuda: list[Any]) -> None:
    """Libraries keep a workspace for each stream."""
    for _ in range(2):
        assert capture_cuda_graph(lambda: A, torch.device("cuda", 7))[1] is A
    assert [stream for stream in cuda if stream != "emptied"] == 2 * ["main", 0, 0]


def test_cached_memory_is_released_before_the_first_call_on_the_side_stream(cuda: list[Any]) -> None:
    """Otherwise memory for the same activations and gradients would be allocated twice."""
    capture_cuda_graph(lambda: cuda.append("call"), torch.device("cuda", 7), lambda: cuda.append("released"))
    assert cuda == ["main", "released", "emptied", 0, "call", "call", "released", 0, "call"]


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_of_the_unet_replays_what_the_unet_computes(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    io = {name: tensor.to(device) for name, tensor in tensors("unet-small-io").items()}
    unet = new_unet(dtype).to(device)
    graphed = GraphedCall(unet, capture_cuda_graph)
    for context in (io["context"], io["context"].flip(0)):
        projected = unet.project_context(context.to(dtype))
        for timesteps in (io["t"], io["t"].flip(0)):
            latents = io["x"].to(dtype)
            expected = unet(latents, timesteps, projected)
            assert rel(graphed(latents, timesteps, projected), expected) < (1e-5 if dtype == torch.float32 else 0.02)
    assert graphed.works

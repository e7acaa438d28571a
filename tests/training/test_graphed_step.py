"""Graphed steps train as eager ones do, bit for bit; CUDA graphs are simulated where there is no GPU."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.nn.graphed import capture_cuda_graph
from ldm.training.dreambooth import DreamBooth
from ldm.training.graphed_step import GraphedStep
from ldm.training.trainer import FitOptions, fit
from tests.simulated_capture import SimulatedCapture
from tests.training.parts import assert_same, batch_of, build_module, full_disk_at, saved_step, train, weights

LONGER: dict[str, Any] = {"iterations": 6, "save_every": 2, "batch_size": 2, "max_grad_norm": 0.5}


def simulated(module: DreamBooth) -> SimulatedCapture:
    return SimulatedCapture(module.trained_parameters())


def losses(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "log" / "metrics.csv").open() as file:
        rows = csv.DictReader(file)
        return [{name: value for name, value in row.items() if name.startswith("loss/")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train_text_encoder", "autocast_dtype"),
    [
        (True, None),
        pytest.param(False, None, marks=pytest.mark.slow),
        pytest.param(True, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(False, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_graphed_steps_train_as_eager_ones_do(
    train_text_encoder: bool, autocast_dtype: torch.dtype | None, tmp_path: Path
) -> None:
    options = {**LONGER, "train_text_encoder": train_text_encoder}
    eager, graphed = build_module(**options), build_module(**options)
    simulation = simulated(graphed)
    train(eager, tmp_path / "eager", autocast_dtype=autocast_dtype, logger="csv")
    train(graphed, tmp_path / "graphed", autocast_dtype=autocast_dtype, logger="csv", capture=simulation)
    assert (simulation.captured, simulation.replayed) == (1, 6)  # one to compare, and all steps but the first
    assert_same(graphed, eager)
    assert losses(tmp_path / "graphed") == losses(tmp_path / "eager")
    assert len(losses(tmp_path / "eager")) == 6


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"max_grad_norm": 0.0}, {"gradient_checkpointing": "all"}])
def test_so_they_do_without_clipping_and_with_checkpointing(change: dict[str, Any], tmp_path: Path) -> None:
    eager, graphed = build_module(**change), build_module(**change)
    train(eager, tmp_path / "eager")
    train(graphed, tmp_path / "graphed", capture=simulated(graphed))
    assert_same(graphed, eager)


@pytest.mark.slow
def test_a_graphed_run_resumes_exactly(tmp_path: Path) -> None:
    eager, stopped, resumed = (build_module(**LONGER) for _ in range(3))
    train(eager, tmp_path / "eager")
    with pytest.raises(UserError, match="the disk is full"):
        train(stopped, tmp_path / "run", full_disk_at(4), capture=simulated(stopped))
    assert saved_step(tmp_path / "run") == 2
    train(resumed, tmp_path / "run", capture=simulated(resumed))
    assert_same(resumed, eager)


@pytest.mark.parametrize(
    "fault", ["refused", *(pytest.param(one, marks=pytest.mark.slow) for one in ("other losses", "no gradients"))]
)
def test_steps_that_can_not_be_captured_run_eagerly_with_a_warning(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    eager, module = build_module(), build_module()

    def faulty(call: Callable[[], Any], *others: Any) -> tuple[Callable[[], object], Any]:
        outputs = call()
        if fault == "refused":
            raise RuntimeError("operation not permitted when stream is capturing")
        norms, losses = outputs

        def replay() -> None:
            call()
            (norms if fault == "no gradients" else losses["total"]).zero_()

        return replay, outputs

    train(eager, tmp_path / "eager")
    with caplog.at_level(logging.WARNING):
        train(module, tmp_path / "run", capture=faulty)
    assert len([record for record in caplog.records if "running eagerly" in record.message]) == 1
    assert_same(module, eager)


def test_a_part_without_gradient_is_still_found(tmp_path: Path) -> None:
    class Detached(DreamBooth):
        def _encode_prompts(self) -> Tensor:
            return super()._encode_prompts().detach()

    module = build_module(cls=Detached, train_text_encoder=True)
    with pytest.raises(UserError, match="the text encoder should train but gets no gradient"):
        train(module, tmp_path, capture=simulated(module))


def test_a_training_whose_steps_differ_is_not_captured(tmp_path: Path) -> None:
    module = build_module(cls=type("Changing", (DreamBooth,), {"can_be_graphed": False}))
    simulation = simulated(module)
    train(module, tmp_path, capture=simulation)
    assert simulation.captured == 0


@pytest.mark.slow
def test_a_graph_released_for_sampling_is_captured_again(tmp_path: Path) -> None:
    class Short(DreamBooth):
        def free_memory_to_sample(self) -> None:
            assert self._graphed is not None
            self._graphed.forget()
            assert all(parameter.grad is None for parameter in self.trained_parameters())

    eager, module = build_module(**LONGER), build_module(cls=Short, **LONGER)
    simulation = simulated(module)
    train(eager, tmp_path / "eager")
    train(module, tmp_path / "run", capture=simulation)
    assert simulation.captured == 3
    assert_same(module, eager)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "free", "previews", "kept"),
    [
        (512, 6.1, True, True),
        (512, 5.9, True, False),
        (256, 5.9, True, True),
        (1024, 6.1, True, False),
        (1024, 0.1, False, True),
    ],
)
def test_a_graph_is_released_if_too_little_memory_is_free_to_sample(
    side: int, free: float, previews: bool, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = build_module(**({} if previews else {"preview_prompts": ()}))
    assert module.sampled_pixels == (32 * 32 if previews else 0)  # of the latents that it was given
    if previews:
        monkeypatch.setattr(DreamBooth, "sampled_pixels", side**2)
    module.graph_steps(simulated(module), None)
    module.log = lambda *args: None  # type: ignore[method-assign, assignment]
    module.training_step(batch_of(module, 0), 0)
    monkeypatch.setattr(DreamBooth, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * 2**30), 16 * 2**30))
    module.free_memory_to_sample()
    assert (module.trained_parameters()[0].grad is not None) == kept


def test_a_smaller_batch_in_between_runs_eagerly() -> None:
    """The next replay's gradients are the parameters' again."""
    layer = nn.Linear(3, 1)
    parameters = list(layer.parameters())

    def error(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"total": layer(batch["x"]).square().mean()}

    step = GraphedStep(error, parameters, None, SimulatedCapture(parameters))
    for seed, size in enumerate([4, 4, 2, 4, 4]):
        x = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))
        total = step({"x": x})["total"]
        expected = layer(x).square().mean()
        gradients = torch.autograd.grad(expected, parameters)
        assert torch.equal(total, expected)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
            parameter.grad *= 0.5  # as clipping does
        torch.testing.assert_close(step.total_norm, torch.cat([gradient.flatten() for gradient in gradients]).norm())


@pytest.mark.gpu
@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("gradient_checkpointing", ["none", "all"])
def test_a_cuda_graph_trains_as_eager_steps_do(
    autocast_dtype: torch.dtype | None, gradient_checkpointing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = []
    for capture in (None, capture_cuda_graph):
        module = build_module(
            iterations=20, save_every=10, train_text_encoder=True, gradient_checkpointing=gradient_checkpointing
        )
        start = weights(module)
        options = FitOptions(
            tmp_path / str(capture), [torch.device("cuda", 0)], autocast_dtype, "none", capture=capture
        )
        fit(module, options, lambda module, step: None)
        assert module._graphed is None or module._graphed._graphed.works
        ends.append(torch.cat([(tensor.cpu() - start[name]).flatten() for name, tensor in weights(module).items()]))
    assert "graph capture failed" not in caplog.text
    assert (ends[0] - ends[1]).norm() < 0.05 * ends[0].norm()

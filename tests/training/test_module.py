"""What all trainings share: trained and fixed weights, the optimizer, the average, the resume state."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm.data.batches import DeviceShare, StepBatches
from ldm.errors import UserError
from ldm.training.config import OptimizationConfig
from ldm.training.ema import AveragedTraining
from tests.training.parts import assert_same, each_update, fit_on_cpu, full_disk_at, saved_step


class Numbers(StepBatches[Tensor]):
    """Step n is the number n; `broken` is a step that can't be read."""

    def __init__(self, share: DeviceShare, broken: int = -1) -> None:
        super().__init__(share, 1)
        self.broken = broken

    def step(self, step: int) -> Tensor:
        if step == self.broken:
            raise UserError("4.png is not a readable image")
        return torch.tensor([[float(step)]])


class Line(AveragedTraining):
    """A line that should be 3 x, and a fixed offset before it."""

    def __init__(self, *, workers: int = 0, broken: int = -1, decay: float = 0.9, **config: Any) -> None:
        super().__init__(OptimizationConfig(**{"iterations": 6, "save_every": 2, "learning_rate": 0.1} | config), 0)
        self.offset = nn.Linear(1, 1)
        self.line = nn.Linear(1, 1)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.5)
        self.workers = workers
        self.broken = broken
        self.start_average(decay)

    def trained_parts(self) -> dict[str, nn.Module]:
        return {"line": self.line}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.line(self.offset(batch)) - 3 * batch).square().mean()

    def batches(self, share: DeviceShare) -> Numbers:
        return Numbers(share, self.broken)


def state_of(run_dir: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run_dir / "resume.ckpt", weights_only=True)
    return state


def test_only_the_trained_parts_move_and_the_optimizer_has_no_others(tmp_path: Path) -> None:
    module = Line()
    fit_on_cpu(module, tmp_path)
    assert [parameter.item() for parameter in module.offset.parameters()] == [0.5, 0.5]
    assert all(parameter.item() != 0.5 for parameter in module.line.parameters())
    assert len(state_of(tmp_path)["optimizer_states"][0]["state"]) == 2


def test_fixed_weights_are_not_in_the_resume_state(tmp_path: Path) -> None:
    fit_on_cpu(Line(), tmp_path)
    assert set(state_of(tmp_path)["state_dict"]) == {
        "line.weight",
        "line.bias",
        "average.line/weight",
        "average.line/bias",
    }


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.01])
def test_gradients_are_clipped_together_or_not_at_all(max_grad_norm: float, tmp_path: Path) -> None:
    with each_update() as updates:
        fit_on_cpu(Line(max_grad_norm=max_grad_norm), tmp_path)
    norms = [update["grad_norm"] for update in updates]
    assert norms == pytest.approx([0.01] * 6, rel=1e-3) if max_grad_norm else max(norms) > 1


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", None)])
def test_torch_chooses_the_kernels_of_an_optimizer_that_can_not_be_fused(precision: str, fused: bool | None) -> None:
    """With False it would choose those for one tensor at a time."""
    module = Line()
    module._trainer = SimpleNamespace(precision=precision)  # type: ignore[assignment]
    group = module.configure_optimizers()["optimizer"].param_groups[0]
    assert (group["fused"], group["foreach"]) == (fused, None)


# The average


def averages(module: AveragedTraining) -> list[float]:
    with module.average.swapped_in():
        return [parameter.item() for parameter in module.trained_parameters()]


def test_the_average_moves_after_every_update(tmp_path: Path) -> None:
    """By hand: after update n with a decay of at most (1 + n) / (10 + n)."""
    saved: list[tuple[float, float]] = []
    module = Line(save_every=1, decay=0.25)
    fit_on_cpu(module, tmp_path, lambda module, step: saved.append((module.line.weight.item(), averages(module)[0])))
    expected = 0.5
    for step, (weight, average) in enumerate(saved, 1):
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert average == pytest.approx(expected, rel=1e-6), step


def test_what_is_saved_has_the_average_of_its_own_update(tmp_path: Path) -> None:
    module = Line(iterations=2)
    fit_on_cpu(module, tmp_path)
    state = state_of(tmp_path)["state_dict"]
    assert state["line.weight"].item() == module.line.weight.item()
    assert [state["average.line/weight"].item(), state["average.line/bias"].item()] == averages(module)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_training_ends_with_the_same_weights_and_average(workers: int, tmp_path: Path) -> None:
    whole = Line(workers=workers)
    fit_on_cpu(whole, tmp_path / "whole")
    with pytest.raises(UserError, match="the disk is full"):
        fit_on_cpu(Line(workers=workers), tmp_path / "run", full_disk_at(4))
    assert saved_step(tmp_path / "run") == 2
    continued = Line(workers=workers)
    fit_on_cpu(continued, tmp_path / "run")
    assert averages(continued) == averages(whole)
    assert averages(whole) != [parameter.item() for parameter in whole.trained_parameters()]
    assert_same(continued, whole)


# Errors in other processes


@pytest.fixture
def no_workers_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_while_reading_comes_through_as_it_is(workers: int, tmp_path: Path, no_workers_left: None) -> None:
    module = Line(workers=workers, broken=4)
    with pytest.raises(UserError) as error:
        fit_on_cpu(module, tmp_path)
    assert str(error.value) == "4.png is not a readable image"
    assert saved_step(tmp_path) in (2, 4)  # the next batch is fetched before a step is done

"""In a step the host doesn't wait for the device: it reads nothing back and copies no constant there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from ldm.data.batches import DreamBoothBatches
from ldm.training.dreambooth import DreamBooth
from tests.training.parts import batch_of, build_module, train


class Operations(TorchDispatchMode):
    """Notes operations that read a value back, and those that get a tensor of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.read_back: list[str] = []
        self.from_host: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if func is torch.ops.aten._local_scalar_dense.default:
            self.read_back.append(str(func))
        if any(isinstance(leaf, Tensor) and leaf.device.type == "cpu" for leaf in tree_leaves((args, kwargs))):
            self.from_host.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def batches_are_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host makes them of random numbers of its own."""
    make_step = DreamBoothBatches.step

    def unobserved(self: DreamBoothBatches, step: int) -> Any:
        with _disable_current_modes():
            return make_step(self, step)

    monkeypatch.setattr(DreamBoothBatches, "step", unobserved)


class Observed(DreamBooth):
    """Notes the operations of the updates from `first` to before `last`, with all that Lightning does between them."""

    first, last = 12, 17

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == self.first:
            vars(self)["operations"] = Operations().__enter__()
        if self.global_step == self.last:
            vars(self)["operations"].__exit__(None, None, None)
            self.trainer.should_stop = True


class Curious(Observed):
    """Reads its loss in every step, as many loops do."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        loss.item()
        return loss


def operations_of_a_run(cls: type[Observed], run_dir: Path, **changes: Any) -> Operations:
    """A run of 500 updates logs every tenth; what it does in between."""
    module = build_module(cls=cls, iterations=500, save_every=500, **changes)
    train(module, run_dir, logger="csv")
    operations: Operations = vars(module)["operations"]
    assert operations.count > 1000
    return operations


@pytest.mark.slow
@pytest.mark.parametrize("train_text_encoder", [pytest.param(False, marks=pytest.mark.slow), True])
def test_no_step_between_two_logged_ones_reads_a_value_back(
    train_text_encoder: bool, batches_are_exempt: None, tmp_path: Path
) -> None:
    operations = operations_of_a_run(Observed, tmp_path, train_text_encoder=train_text_encoder)
    assert not operations.read_back


@pytest.mark.slow
def test_a_value_that_is_read_back_would_be_noticed(batches_are_exempt: None, tmp_path: Path) -> None:
    assert len(operations_of_a_run(Curious, tmp_path).read_back) == 5


@pytest.mark.slow
@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_a_step_takes_nothing_from_the_host_but_its_batch(train_text_encoder: bool) -> None:
    """On the meta device, which nothing can be computed on but which is not the host either."""
    module = build_module(train_text_encoder=train_text_encoder).to("meta")
    module.log = lambda *args: None  # type: ignore[method-assign, assignment]
    batch = tree_map(lambda tensor: tensor.to("meta"), batch_of(module, 0))
    module.training_step(batch, 0)
    with Operations() as operations:
        module.training_step(batch, 1).backward()
    assert operations.count > 100
    assert not operations.from_host

"""What happens around training steps: guards, saving, signals, progress."""

import contextlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from ldm.errors import UserError
from ldm.interruption import Request, Stopped, handled_signals
from ldm.training.callbacks import FiniteGuard, StopOnSignal
from ldm.training.dreambooth import DreamBooth
from ldm.training.processes import OtherProcesses
from ldm.training.trainer import FitOptions, fit
from tests.simulated_capture import SimulatedCapture
from tests.training.parts import assert_same, build_module, full_disk_at, saved_step, train, weights


class Steps(DreamBooth):
    """Counts its steps; `then(module, loss, update)` may replace the loss of a step."""

    then: Callable[[Any, Tensor, int], Tensor]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        vars(self).setdefault("steps", []).append(self.global_step + 1)
        return type(self).then(self, super().training_step(batch, batch_idx), self.global_step + 1)


def steps_that(then: Callable[[Any, Tensor, int], Tensor]) -> type[Steps]:
    """A module whose losses pass through `then`."""
    return type("Changed", (Steps,), {"then": staticmethod(then)})


# GradientGuard


class Detached(Steps):
    """Forgets the text encoder's gradient, as the original did."""

    then = staticmethod(lambda module, loss, update: loss)

    def _encode_prompts(self) -> Tensor:
        return super()._encode_prompts().detach()


class Zeroed(Detached):
    """Its text encoder has gradients, and all of them are zero."""

    def _encode_prompts(self) -> Tensor:
        context = DreamBooth._encode_prompts(self)
        return context.detach() + 0.0 * context


class TextOnly(Detached):
    """Its loss doesn't depend on the UNet."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        super().training_step(batch, batch_idx)
        return DreamBooth._encode_prompts(self).square().mean()


@pytest.mark.parametrize(("cls", "part"), [(Detached, "text encoder"), (Zeroed, "text encoder"), (TextOnly, "unet")])
def test_a_part_without_gradient_is_named_in_the_first_step(cls: type[Steps], part: str, tmp_path: Path) -> None:
    module = build_module(cls=cls, train_text_encoder=True, save_every=1)
    saved: list[int] = []
    before = weights(module)
    with pytest.raises(UserError, match=f"the {part} should train but gets no gradient"):
        train(module, tmp_path, lambda module, step: saved.append(step))
    assert vars(module)["steps"] == [1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(module).items())
    assert not saved
    assert not (tmp_path / "resume.ckpt").exists()


@pytest.mark.parametrize("patience", [2, 3])
def test_a_part_that_gets_its_gradient_later_is_waited_for(patience: int, tmp_path: Path) -> None:
    """As behind layers that start at zero: here the text encoder has a gradient from the third step on."""

    class Late(Zeroed):
        gradient_patience = patience

        def _encode_prompts(self) -> Tensor:
            context = DreamBooth._encode_prompts(self)
            return context if self.global_step >= 2 else context.detach() + 0.0 * context

    module = build_module(cls=Late, train_text_encoder=True)
    if patience == 2:
        with pytest.raises(UserError, match="the text encoder should train but gets no gradient"):
            train(module, tmp_path)
    else:
        train(module, tmp_path)
    assert vars(module)["steps"] == ([1, 2] if patience == 2 else [1, 2, 3, 4])


def test_a_run_shorter_than_the_patience_passes_the_guard(tmp_path: Path) -> None:
    module = build_module(cls=type("Patient", (Zeroed,), {"gradient_patience": 5}), train_text_encoder=True)
    train(module, tmp_path)
    assert vars(module)["steps"] == [1, 2, 3, 4]


# FiniteGuard


def broken_from(update: int, change: Callable[[Tensor], Tensor]) -> type[Steps]:
    """A module whose loss is changed in this update."""
    return steps_that(lambda module, loss, now: change(loss) if now == update else loss)


def test_a_loss_that_is_not_finite_stops_the_run_naming_the_update_and_the_broken_part(tmp_path: Path) -> None:
    module = build_module(cls=broken_from(3, lambda loss: loss * torch.nan), iterations=6, save_every=2)
    saved: list[int] = []
    with pytest.raises(UserError, match=r"not finite from update 3 on; the weights of the unet are broken"):
        train(module, tmp_path, lambda module, step: saved.append(step))
    assert saved == [2]
    assert saved_step(tmp_path) == 2
    assert vars(module)["steps"] == [1, 2, 3]


def test_both_broken_parts_are_named(tmp_path: Path) -> None:
    module = build_module(cls=broken_from(1, lambda loss: loss * torch.nan), train_text_encoder=True)
    with pytest.raises(UserError, match=r"from update 1 on; the weights of the unet and the text_encoder are broken"):
        train(module, tmp_path)


def test_weights_that_are_still_good_are_not_called_broken(tmp_path: Path) -> None:
    module = build_module(cls=broken_from(2, lambda loss: loss + torch.inf))
    with pytest.raises(UserError, match=r"not finite from update 2 on\. Checkpoints before it are good"):
        train(module, tmp_path)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(module).values())


def test_nothing_is_saved_after_a_broken_update_between_two_checks(tmp_path: Path) -> None:
    """A run of 100 updates checks the loss in every second one, and this one saves in every third."""
    module = build_module(cls=broken_from(3, lambda loss: loss * torch.nan), iterations=100, save_every=3)
    saved: list[int] = []
    with pytest.raises(UserError, match=r"not finite from update 3 on"):
        train(module, tmp_path, lambda module, step: saved.append(step))
    assert not saved
    assert not (tmp_path / "resume.ckpt").exists()


def test_a_broken_update_between_two_checks_is_named(tmp_path: Path) -> None:
    module = build_module(cls=broken_from(5, lambda loss: loss + torch.inf), iterations=200, save_every=200)
    with pytest.raises(UserError, match=r"not finite from update 5 on"):
        train(module, tmp_path)
    assert vars(module)["steps"] == [1, 2, 3, 4, 5, 6, 7, 8]


# SaveEvery


@pytest.mark.parametrize(("iterations", "every", "expected"), [(5, 2, [2, 4, 5]), (2, 5, [2])])
def test_checkpoints_come_at_multiples_and_after_the_last_update(
    iterations: int, every: int, expected: list[int], tmp_path: Path
) -> None:
    module = build_module(iterations=iterations, save_every=every)
    saved: list[tuple[int, int, int]] = []

    def save(module: DreamBooth, step: int) -> None:
        updates = {int(state["step"]) for state in module.trainer.optimizers[0].state.values()}
        before = saved_step(tmp_path) if (tmp_path / "resume.ckpt").exists() else 0
        saved.append((step, *updates, before))

    train(module, tmp_path, save)
    # Each step's number is the number of updates, and its files come before its resume state.
    assert saved == [(step, step, before) for step, before in zip(expected, [0, *expected], strict=False)]
    assert saved_step(tmp_path) == iterations


def test_a_save_that_fails_keeps_the_resume_state_before_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the disk is full"):
        train(build_module(iterations=6, save_every=2), tmp_path, full_disk_at(4))
    assert saved_step(tmp_path) == 2


# StopOnSignal


def kill_in(update: int) -> type[Steps]:
    """A module that sends its own process a signal in the middle of this update."""

    def then(module: Any, loss: Tensor, now: int) -> Tensor:
        if now == update:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    return steps_that(then)


def test_a_signal_stops_after_its_step_and_saves_its_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = build_module(cls=kill_in(3), iterations=8, save_every=5)
    saved: list[int] = []
    assert train(module, tmp_path, lambda module, step: saved.append(step)) == 3
    assert saved_step(tmp_path) == 3
    assert not saved
    assert "stopping after this step" in caplog.text


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_resumes_to_the_weights_it_would_have_had(tmp_path: Path) -> None:
    options: dict[str, Any] = {"iterations": 8, "save_every": 5, "train_text_encoder": True}
    options |= {"lr_schedule": "linear", "warmup_steps": 2}
    whole = build_module(**options)
    train(whole, tmp_path / "whole")
    train(build_module(cls=kill_in(3), **options), tmp_path / "stopped")
    continued = build_module(cls=kill_in(0), **options)
    assert train(continued, tmp_path / "stopped") is None
    assert vars(continued)["steps"] == [4, 5, 6, 7, 8]
    assert_same(continued, whole)


def test_after_a_signal_in_the_last_update_it_is_saved(tmp_path: Path) -> None:
    saved: list[int] = []
    assert train(build_module(cls=kill_in(4)), tmp_path, lambda module, step: saved.append(step)) == 4
    assert saved == [2, 4]
    assert saved_step(tmp_path) == 4


def test_a_signal_before_the_first_update_ends_the_training_before_it(tmp_path: Path) -> None:
    class Early(Steps):
        then = staticmethod(lambda module, loss, update: loss)

        def setup(self, stage: str) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    module = build_module(cls=Early)
    with pytest.raises(Stopped), handled_signals():
        fit(module, FitOptions(tmp_path, [torch.device("cpu")], None, "none"), lambda module, step: None)
    assert "steps" not in vars(module)
    assert not (tmp_path / "resume.ckpt").exists()


def test_several_processes_stop_together_if_the_loss_of_one_is_not_finite() -> None:
    """It was another one's, in update 3."""
    guard = FiniteGuard(2)
    theirs = torch.tensor(3.0)
    strategy = SimpleNamespace(reduce=lambda mine, reduce_op: {"min": torch.minimum}[reduce_op](mine, theirs))
    trainer = SimpleNamespace(global_step=0, max_steps=100, world_size=2, strategy=strategy)
    module = SimpleNamespace(trained_parts=dict)
    with pytest.raises(UserError, match="from update 3"):
        for trainer.global_step in (3, 4):
            guard.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.0)})  # type: ignore[arg-type]
    assert trainer.global_step == 4


# ReleaseMemory


def held(module: DreamBooth) -> int:
    """How many of the trained weights have a gradient or moments."""
    states = [state for optimizer in module.trainer.optimizers for state in optimizer.state]
    return len(states) + sum(parameter.grad is not None for parameter in module.trained_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("graphed", "end"), [(False, "the last update"), (True, "a signal"), (False, "an error")])
def test_at_its_end_a_training_holds_neither_gradients_nor_moments(
    graphed: bool, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Lightning moves what there is to the host."""
    teardown, moved = SingleDeviceStrategy.teardown, []
    monkeypatch.setattr(SingleDeviceStrategy, "teardown", lambda self: moved.append(held(module)) or teardown(self))
    changes = {
        "the last update": steps_that(lambda module, loss, update: loss),
        "a signal": kill_in(3),
        "an error": broken_from(3, lambda loss: loss * torch.nan),
    }
    module = build_module(cls=changes[end], save_every=2)
    during: list[int] = []

    def save(module: DreamBooth, step: int) -> None:
        during.append(held(module))

    with contextlib.suppress(UserError):
        train(module, tmp_path, save, capture=SimulatedCapture(module.trained_parameters()) if graphed else None)
    assert moved == [0]
    assert min(during) > len(module.trained_parameters())
    assert module._graphed is None or module._graphed._graphed._graph is None
    assert saved_step(tmp_path) == {"the last update": 4, "a signal": 3, "an error": 2}[end]


# Progress


def test_progress_shows_updates_time_left_and_losses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ldm")
    train(build_module(), tmp_path)
    line = next(message for message in reversed(caplog.messages) if message.startswith("training: "))
    assert re.match(r"training: 4 of 4, \d\d:\d\d so far, [\d.]+ (step/s|s/step), 00:00 left, img/s=", line), line
    for name in ("instance=", "class=", "total="):
        assert name in line


@pytest.mark.parametrize(("with_class", "images"), [(True, 6), (False, 3)])
def test_progress_shows_images_a_second(
    with_class: bool, images: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of all updates since the last report, by a clock that moves half a second with each reading."""
    caplog.set_level("INFO", logger="ldm")
    ticks = iter(range(10**6))
    monkeypatch.setattr("ldm.training.callbacks.time", SimpleNamespace(perf_counter=lambda: next(ticks) / 2))
    module = build_module(with_class=with_class, batch_size=3, iterations=100, save_every=100)  # each second update
    module.on_train_batch_end = lambda *args: setattr(module.trainer, "should_stop", module.global_step == 4)  # type: ignore[method-assign]
    train(module, tmp_path)
    assert set(re.findall(r"img/s=([\d.]+)", caplog.text)) == {f"{2 * images / 0.5:.1f}"}


def test_a_stop_saves_nothing_broken(tmp_path: Path) -> None:
    """A signal after a broken loss and before the guard's next check."""
    guard = FiniteGuard(1000)
    request = Request("")
    request.number = signal.SIGTERM
    stop = StopOnSignal(tmp_path, request, OtherProcesses(), guard)
    trainer = SimpleNamespace(global_step=5, max_steps=100, world_size=1, should_stop=False)
    guard.on_train_batch_end(trainer, None, {"loss": torch.tensor(float("nan"))})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="from update 5"):
        stop.on_train_batch_end(trainer, SimpleNamespace(trained_parts=dict))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds_a_step", "agreed_after"), [(0.01, [1, 2, 7]), (0.7, [1, 2, 4, 6, 8]), (9.0, [1, 2, 3, 4, 5, 6, 7])]
)
def test_several_processes_agree_to_stop_only_now_and_then(
    seconds_a_step: float, agreed_after: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreements: list[tuple[int, bool]] = []
    saved: list[int] = []
    request = Request("")
    stop = StopOnSignal(tmp_path, request, OtherProcesses(), FiniteGuard(5), every=5)
    trainer = SimpleNamespace(global_step=0, max_steps=100, world_size=2, should_stop=False)
    trainer.save_checkpoint = lambda path: saved.append(trainer.global_step)
    # The signal has reached another process, before update 7.
    trainer.strategy = SimpleNamespace(
        reduce_boolean_decision=lambda mine, all: (
            agreements.append((trainer.global_step, mine)) or trainer.global_step > 6
        ),
        reduce=lambda mine, reduce_op: mine,
        root_device=torch.device("cpu"),
    )
    clock = SimpleNamespace(monotonic=lambda: trainer.global_step * seconds_a_step)
    monkeypatch.setattr("ldm.training.callbacks.time", clock)
    while not trainer.should_stop:
        trainer.global_step += 1
        stop.on_train_batch_end(trainer, None)  # type: ignore[arg-type]
    assert agreements == [(step, False) for step in agreed_after]
    assert saved == agreed_after[-1:]
    assert request.is_made

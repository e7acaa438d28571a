"""Callbacks around training steps: guards, progress, saving, stopping on a signal."""

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm.background import BackgroundWriter
from ldm.checkpoint.discovery import RESUME_STATE
from ldm.errors import UserError
from ldm.interruption import Request, Stopped
from ldm.progress import Progress
from ldm.training.processes import OtherProcesses

log = logging.getLogger(__name__)


class SaveEvery(pl.Callback):
    """Saves after every `every` updates and the last: the checkpoint and previews by `save`, then the resume state.

    The resume state comes last, so that a run that is killed before writes all files of the step again. A save makes
    its copies when `writer` has written those of the last save: memory holds the copies of one. Errors of `writer` are
    raised after the next step.
    """

    def __init__(self, run_dir: Path, every: int, save: Callable[[Any, int], None], writer: BackgroundWriter) -> None:
        self.run_dir = run_dir
        self.every = every
        self.save = save
        self.writer = writer

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.writer.raise_if_failed()
        step = trainer.global_step
        if step % self.every == 0 or step == trainer.max_steps:
            self.writer.wait()
            if trainer.is_global_zero:
                pl_module.free_memory_to_sample()
                self.save(pl_module, step)
            trainer.save_checkpoint(self.run_dir / RESUME_STATE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.writer.wait()


class ReleaseMemory(pl.Callback):
    """After the last step, or an error, releases what another step would need. Lightning would move it to the host."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.release_memory()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        pl_module.release_memory()


AGREE_EVERY = 2.0
"""Seconds between two agreements of all processes on whether to stop."""


class StopOnSignal(pl.Callback):
    """On a signal: finishes the step, saves the resume state and stops.

    Several processes have to stop after the same step, and wait for each other to agree on it: after every `every`
    steps, and with slow steps every `AGREE_EVERY` seconds, as a batch system doesn't wait long.
    """

    def __init__(
        self, run_dir: Path, request: Request, others: OtherProcesses, guard: "FiniteGuard", every: int = 1
    ) -> None:
        self.run_dir = run_dir
        self.request = request
        self.others = others
        self.guard = guard
        self.every = every
        self._next = 0
        self._last: tuple[int, float] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.request.number is not None:
            raise Stopped(self.request.number)
        if trainer.is_global_zero:
            self.request.meanwhile = "stopping after this step; its state is saved. Once more stops at once"

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        stop = self.request.is_made
        if trainer.world_size > 1:  # a signal may reach one process only
            if trainer.global_step < self._next:
                return
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            self._next = trainer.global_step + self._steps_to_wait(trainer)
        if stop and trainer.global_step < trainer.max_steps:
            self.others.stop_watching()
            self.guard.raise_if_bad(trainer, pl_module)
            trainer.save_checkpoint(self.run_dir / RESUME_STATE)
            self.request.number = self.request.number or signal.SIGTERM  # another process received it
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.request.after = f"update {trainer.global_step}"

    def _steps_to_wait(self, trainer: pl.Trainer) -> int:
        """Steps until the next agreement, from the slowest process's speed since the last: the same in all."""
        last, self._last = self._last, (trainer.global_step, time.monotonic())
        if last is None:
            return 1
        seconds = (self._last[1] - last[1]) / (self._last[0] - last[0])
        slowest = trainer.strategy.reduce(
            torch.tensor(seconds, device=trainer.strategy.root_device), reduce_op="max"
        ).item()
        return max(1, min(self.every, int(AGREE_EVERY / max(slowest, 1e-6))))


class GradientGuard(pl.Callback):
    """Raises `UserError` if a trained network has no gradient within the module's `gradient_patience` steps."""

    def __init__(self) -> None:
        self._waiting: set[str] | None = None
        self._steps = 0

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._waiting is None:
            self._waiting = set(pl_module.trained_parts())
        for name in list(self._waiting):
            if pl_module.has_gradient(pl_module.trained_parts()[name]):
                self._waiting.discard(name)
        self._steps += 1
        if self._waiting and self._steps == pl_module.gradient_patience:
            names = " and the ".join(sorted(self._waiting)).replace("_", " ")
            raise UserError(f"the {names} should train but gets no gradient")


class FiniteGuard(pl.Callback):
    """Raises `UserError` when the loss is not finite, naming the step and the networks whose weights are broken.

    The first bad step stays on the device and is read at multiples of `every`, so that no other step waits for it.
    """

    def __init__(self, *every: int) -> None:
        self.every = every
        self._first_bad: Tensor | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        loss = outputs["loss"].detach()
        step = trainer.global_step
        never = torch.full_like(loss, torch.inf)
        bad_now = torch.where(loss.isfinite(), never, torch.full_like(loss, step))
        self._first_bad = bad_now if self._first_bad is None else torch.minimum(self._first_bad, bad_now)
        if step == trainer.max_steps or any(step % every == 0 for every in self.every):
            self.raise_if_bad(trainer, pl_module)

    def raise_if_bad(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Raises `UserError` if any loss so far was not finite, in any process. All processes have to call it.

        Call it before anything is saved.
        """
        if self._first_bad is None:
            return
        if trainer.world_size > 1:
            self._first_bad = trainer.strategy.reduce(self._first_bad, reduce_op="min")
        if (first := self._first_bad.item()) != torch.inf:
            broken = [
                name
                for name, part in pl_module.trained_parts().items()
                if not all(bool(parameter.isfinite().all()) for parameter in part.parameters())
            ]
            where = f"; the weights of the {' and the '.join(broken)} are broken" if broken else ""
            raise UserError(
                f"the loss is not finite from update {int(first)} on{where}. Checkpoints before it are good. "
                "Try a smaller --learning-rate, or --precision full"
            )


class TrainingProgress(pl.Callback):
    """Reports updates, speed, time left, images a second and the latest losses."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step and trainer.is_global_zero:
            log.info("continuing after update %d of %d", trainer.global_step, trainer.max_steps)
        self._progress = Progress(
            trainer.max_steps, "training", "step", done=trainer.global_step, silent=not trainer.is_global_zero
        )
        self._images = pl_module.images_per_step * trainer.world_size
        self._last = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        assert self._progress is not None
        step = trainer.global_step
        if step % self.every == 0:
            losses = {k.removeprefix("loss/"): v for k, v in trainer.callback_metrics.items() if k.startswith("loss/")}
            now, (then, before) = time.perf_counter(), self._last
            self._last = now, step
            speed = {"img/s": f"{(step - before) * self._images / (now - then):.1f}"}
            self._progress.note(**speed, **{name: f"{value.item():.4f}" for name, value in losses.items()})
        self._progress.update(step - self._progress.done)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if self._progress is not None:
            self._progress.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # ends the line before the error is printed


class UpdateClock(pl.Callback):
    """Measures each update, in seconds until the device has done its work; ends the training after `most` of them."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self._began = time_on(pl_module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.seconds.append(time_on(pl_module.device) - self._began)
        if sum(self.seconds) >= self.most:
            trainer.should_stop = True


def time_on(device: torch.device) -> float:
    """The time in seconds when the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()

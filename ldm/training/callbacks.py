"""What happens around the training steps: progress, checkpoints, previews, resume state, and guards."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from tqdm import tqdm

from ldm.background import BackgroundWriter
from ldm.checkpoint.discovery import RESUME_STATE
from ldm.checkpoint.saving import snapshot
from ldm.errors import UserError
from ldm.files import atomic_path, openable
from ldm.host_memory import available_memory

log = logging.getLogger(__name__)


class ResumeStateIO(CheckpointIO):
    """Writes Lightning's state straight to a temporary file and renames it; reads tensors only.

    With a `writer` a copy of the state is written in the background, if memory has room for two of them.
    """

    def __init__(self, writer: BackgroundWriter | None = None) -> None:
        self.writer = writer
        self._step: object = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        step = checkpoint.get("global_step")
        if step is not None and step == self._step:
            return  # whoever stops a training may do so after a step that was saved
        self._step = step
        if self.writer is None:
            write_state(checkpoint, Path(path))
        elif (available_memory() or 0) > 2 * state_bytes(checkpoint):
            copied = tree_map_only(Tensor, lambda tensor: snapshot(tensor, tensor.dtype), checkpoint)
            self.writer.put(partial(write_state, copied, Path(path)))
        else:
            self.writer.wait()
            write_state(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        try:
            with openable(Path(path)) as name:
                state: dict[str, Any] = torch.load(name, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch raise
            raise UserError(f"the resume state {path} can't be read: it is damaged, or not one of ours") from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def write_state(state: dict[str, Any], path: Path) -> None:
    """Writes a resume state, atomically. Raises `UserError` if that is not possible."""
    try:
        with atomic_path(path) as partial_path:
            torch.save(state, partial_path)
    except RuntimeError as error:  # torch's word for a full disk
        raise UserError(f"could not write {path}: {error}") from error


def state_bytes(state: dict[str, Any]) -> int:
    """What the tensors of a state take."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))


class SaveEvery(pl.Callback):
    """After every `every` updates and the last: the checkpoint and its previews (`save`), then the resume state.

    A step's files are there before the resume state is, so a run killed in between draws them again. What is left to
    the writer is written before the next is copied: memory holds one step's copies. Its errors are raised after a step.
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
                pl_module.make_room()
                self.save(pl_module, step)
            trainer.save_checkpoint(self.run_dir / RESUME_STATE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.writer.wait()


class LetGo(pl.Callback):
    """When nothing comes after a step, also because of an error: frees what the next would have needed.

    Otherwise Lightning would move it to the host's memory.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.let_go()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        pl_module.let_go()


class StopOnSignal(pl.Callback):
    """On Ctrl-C or SIGTERM: finishes the step, saves the resume state and stops. A second signal stops at once.

    Several processes agree on it after every `every` steps only, because they have to wait for each other to do so.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, run_dir: Path, guard: "FiniteGuard | None" = None, every: int = 1) -> None:
        self.run_dir = run_dir
        self.guard = guard
        self.every = every
        self.stopped_at: int | None = None
        self._asked = False

    @contextmanager
    def restoring_handlers(self) -> Iterator[None]:
        """Around a training: puts the signal handlers back that Lightning and this callback replace."""
        before = {number: signal.getsignal(number) for number in self.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._ask)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        asked = self._asked
        if trainer.world_size > 1:  # a signal may reach one process only, and all have to stop after the same step
            if trainer.global_step % self.every:
                return
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked and trainer.global_step < trainer.max_steps:
            if self.guard:
                self.guard.raise_if_bad(trainer, pl_module)
            trainer.save_checkpoint(self.run_dir / RESUME_STATE)
            self.stopped_at = trainer.global_step
            trainer.should_stop = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        log.warning("stopping after this step; its state is saved. Once more stops at once")


class GradientGuard(pl.Callback):
    """Fails if a network that should train gets no gradient within the module's `gradient_patience` steps."""

    def __init__(self) -> None:
        self._waiting: set[str] | None = None
        self._steps = 0

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._waiting is None:
            self._waiting = set(pl_module.trained_parts())
        for name in list(self._waiting):
            parameters = pl_module.trained_parts()[name].parameters()
            if any(bool(parameter.grad.any()) for parameter in parameters if parameter.grad is not None):
                self._waiting.discard(name)
        self._steps += 1
        if self._waiting and self._steps == pl_module.gradient_patience:
            names = " and the ".join(sorted(self._waiting)).replace("_", " ")
            raise UserError(f"the {names} should train but gets no gradient")


class FiniteGuard(pl.Callback):
    """Stops the run when the loss is no longer finite, naming the step and the networks whose weights are broken.

    The flag stays on the device and is looked at every so many steps, so that no other step waits for it.
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
        """Raises `UserError` if any loss so far was not finite, in any of the processes, which all have to ask.

        To be called before anything is saved.
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


class Progress(pl.Callback):
    """One line that grows: updates, speed, pictures a second, the latest losses."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            disable=not trainer.is_global_zero,
        )
        self._pictures = pl_module.pictures_per_step * trainer.world_size
        self._last = time.perf_counter(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        step = trainer.global_step
        self._bar.update(step - self._bar.n)
        if step % self.every == 0:
            losses = {k.removeprefix("loss/"): v for k, v in trainer.callback_metrics.items() if k.startswith("loss/")}
            now, (then, before) = time.perf_counter(), self._last
            self._last = now, step
            speed = {"img/s": f"{(step - before) * self._pictures / (now - then):.1f}"}
            self._bar.set_postfix(speed | {name: f"{value.item():.4f}" for name, value in losses.items()})

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # an error is told on a line of its own

"""Checkpoints and resume states are written in the background, and are those of their step."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.background import BackgroundWriter
from ldm.errors import UserError
from ldm.training import resume_state
from ldm.training.dreambooth import DreamBooth
from ldm.training.resume_state import ResumeStateIO
from tests.training.parts import assert_same, build_module, saved_step, train, weights

Save = Callable[[DreamBooth, int], None]


def saving(writer: BackgroundWriter, run_dir: Path, wait: Callable[[int], object] = lambda step: None) -> Save:
    """Writes a copy of the weights in the background, once `wait(step)` returns."""

    def save(module: DreamBooth, step: int) -> None:
        copied = weights(module)

        def write() -> None:
            wait(step)
            torch.save(copied, run_dir / f"step-{step}")

        writer.put(write)

    return save


def files(run_dir: Path) -> set[str]:
    return {path.name for path in run_dir.iterdir()}


class Stepping(DreamBooth):
    """Calls `after(update)` when the update is made, before anything is saved."""

    after: Callable[[int], object]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        type(self).after(self.global_step + 1)


def stepping(after: Callable[[int], object]) -> type[Stepping]:
    return type("Calling", (Stepping,), {"after": staticmethod(after)})


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_and_its_state_are_written(tmp_path: Path) -> None:
    """The files of update 2 are held up until update 3 is made; they hold the weights of update 2."""
    whole = build_module(iterations=2)
    train(whole, tmp_path / "whole")
    expected = weights(whole)
    third = threading.Event()
    there: list[set[str]] = []

    def after(update: int) -> None:
        if update == 3:
            there.append(files(tmp_path))
            third.set()

    writer = BackgroundWriter()
    module = build_module(cls=stepping(after))
    train(module, tmp_path, saving(writer, tmp_path, lambda step: third.wait(60)), writer=writer)
    assert there == [{"whole"}]
    saved = torch.load(tmp_path / "step-2", weights_only=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.items())
    assert saved_step(tmp_path) == 4


@pytest.mark.slow
def test_a_state_held_up_is_that_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written after update 3, at which a signal stops the process at once: the run continues from update 2, exactly."""
    whole = build_module()
    train(whole, tmp_path / "whole")
    third = threading.Event()
    write = resume_state.write_state

    def held_up(state: dict[str, Any], path: Path) -> None:
        third.wait(60)
        write(state, path)

    def after(update: int) -> None:
        if update == 3:
            third.set()
            raise UserError("stop")

    monkeypatch.setattr(resume_state, "write_state", held_up)
    with pytest.raises(UserError, match="stop"):
        train(build_module(cls=stepping(after)), tmp_path)
    assert saved_step(tmp_path) == 2
    continued = build_module()
    train(continued, tmp_path)
    assert_same(continued, whole)


@pytest.mark.slow
def test_a_step_is_written_before_the_next_is_copied(tmp_path: Path) -> None:
    writer, there = BackgroundWriter(), []
    slowly = saving(writer, tmp_path, lambda step: time.sleep(0.05))

    def save(module: DreamBooth, step: int) -> None:
        there.append((files(tmp_path), saved_step(tmp_path) if step > 1 else 0))
        slowly(module, step)

    train(build_module(iterations=3, save_every=1), tmp_path, save, writer=writer)
    one, two, three = "step-1", "step-2", "step-3"
    assert there == [(set(), 0), ({one, "resume.ckpt"}, 1), ({one, two, "resume.ckpt"}, 2)]
    assert files(tmp_path) == {one, two, three, "resume.ckpt"}


@pytest.mark.parametrize(
    ("broken", "expected"), [(2, set()), (4, {"step-2", "resume.ckpt"}), (6, {"step-2", "step-4", "resume.ckpt"})]
)
def test_a_write_that_fails_stops_the_run_and_no_state_is_written_after_it(
    broken: int, expected: set[str], tmp_path: Path
) -> None:
    """Also the last one, after which there is no step."""

    def full(step: int) -> None:
        if step == broken:
            raise UserError("the disk is full")

    writer = BackgroundWriter()
    with pytest.raises(UserError, match="the disk is full"):
        train(build_module(iterations=6), tmp_path, saving(writer, tmp_path, full), writer=writer)
    assert files(tmp_path) == expected
    assert broken == 2 or saved_step(tmp_path) == broken - 2


def test_ctrl_c_finishes_what_is_being_written(tmp_path: Path) -> None:
    def after(update: int) -> None:
        if update == 3:
            os.kill(os.getpid(), signal.SIGINT)

    writer = BackgroundWriter()
    slowly = saving(writer, tmp_path, lambda step: time.sleep(0.2))
    assert train(build_module(cls=stepping(after)), tmp_path, slowly, writer=writer) == 3
    assert files(tmp_path) == {"step-2", "resume.ckpt"}
    assert saved_step(tmp_path) == 3


@pytest.mark.slow
@pytest.mark.parametrize("available", [None, 1000])
def test_without_room_for_a_copy_the_state_is_written_at_once(
    available: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_state, "available_memory", lambda: available)
    threads: list[str] = []
    write = resume_state.write_state
    monkeypatch.setattr(
        resume_state, "write_state", lambda *args: threads.append(threading.current_thread().name) or write(*args)
    )
    writer = BackgroundWriter()
    train(build_module(), tmp_path, saving(writer, tmp_path, lambda step: time.sleep(0.05)), writer=writer)
    assert threads == ["MainThread"] * 2
    assert files(tmp_path) == {"step-2", "step-4", "resume.ckpt"}


def test_a_step_that_is_saved_twice_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(resume_state, "write_state", lambda state, path: written.append(state["global_step"]))
    io = ResumeStateIO()
    for step in (2, 2, 4):
        io.save_checkpoint({"global_step": step}, tmp_path / "resume.ckpt")
    assert written == [2, 4]

"""Lightning's Trainer as it is used here: what it logs, where it writes, how it continues."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ldm.errors import UserError
from ldm.training.dreambooth import DreamBooth
from tests.training.parts import (
    Logging,
    assert_same,
    batch_of,
    build_module,
    each_update,
    full_disk_at,
    saved_step,
    train,
)


class Observed(Logging, DreamBooth):
    """Notes the timesteps of each batch, too."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        vars(self).setdefault("timesteps", []).append(batch["timesteps"].tolist())
        return super().training_step(batch, batch_idx)


def csv_rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "log" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_step_gets_the_batch_of_its_number(tmp_path: Path) -> None:
    module = build_module(cls=Observed, batch_size=2)
    train(module, tmp_path)
    assert vars(module)["timesteps"] == [batch_of(module, step)["timesteps"].tolist() for step in range(4)]


def test_nothing_is_written_but_the_resume_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(build_module(), tmp_path / "run")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        "run/resume.ckpt"
    ]


def test_the_csv_log_holds_each_loss_by_step(tmp_path: Path) -> None:
    module = build_module(cls=Observed, prior_loss_weight=0.5)
    train(module, tmp_path, logger="csv")
    rows = csv_rows(tmp_path)
    for name, losses in vars(module)["logged"].items():
        assert [float(row[name]) for row in rows] == pytest.approx(losses, rel=1e-5)
    for row in rows:
        assert float(row["loss/total"]) == pytest.approx(
            float(row["loss/instance"]) + 0.5 * float(row["loss/class"]), rel=1e-5
        )


@pytest.mark.slow
def test_a_long_run_logs_every_tenth_update(tmp_path: Path) -> None:
    module = build_module(iterations=1000, save_every=1000)

    def stop_after_30(step: int) -> None:
        if step == 30:
            module.trainer.should_stop = True

    module.on_train_batch_end = lambda *args: stop_after_30(module.global_step)  # type: ignore[method-assign]
    train(module, tmp_path, logger="csv")
    assert len(csv_rows(tmp_path)) == 3


# Continuing


@pytest.mark.parametrize(
    ("lr_schedule", "train_text_encoder", "autocast_dtype"),
    [
        pytest.param("constant", False, None, marks=pytest.mark.slow),
        ("cosine", True, None),
        pytest.param("constant", True, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_resumes_to_the_very_same_weights(
    lr_schedule: str, train_text_encoder: bool, autocast_dtype: torch.dtype | None, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "iterations": 7,
        "save_every": 2,
        "batch_size": 2,
        "warmup_steps": 3,
        "lr_schedule": lr_schedule,
        "train_text_encoder": train_text_encoder,
    }
    whole = build_module(cls=Observed, **options)
    train(whole, tmp_path / "whole", autocast_dtype=autocast_dtype)
    with pytest.raises(UserError):
        train(build_module(**options), tmp_path / "run", full_disk_at(4), autocast_dtype=autocast_dtype)
    assert saved_step(tmp_path / "run") == 2
    continued = build_module(cls=Observed, **options)
    with each_update() as updates:
        train(continued, tmp_path / "run", autocast_dtype=autocast_dtype)
    assert len(updates) == 5
    assert vars(continued)["timesteps"] == vars(whole)["timesteps"][2:]
    differs = ("train/images_per_second", "train/memory_gib")
    expected = {name: values[2:] for name, values in vars(whole)["logged"].items() if name not in differs}
    assert {name: values for name, values in vars(continued)["logged"].items() if name not in differs} == expected
    assert_same(continued, whole)


def test_a_finished_run_makes_no_further_update(tmp_path: Path) -> None:
    module = build_module()
    train(module, tmp_path)
    again = build_module()
    saved: list[int] = []
    with each_update() as updates:
        assert train(again, tmp_path, lambda module, step: saved.append(step)) is None
    assert not updates
    assert not saved
    assert_same(again, module)


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_a_resumed_run_keeps_what_was_logged_before(logger: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(build_module(iterations=6), tmp_path, full_disk_at(4), logger=logger)
    train(build_module(iterations=6), tmp_path, logger=logger)
    if logger == "csv":
        steps = {int(row["step"]) for row in csv_rows(tmp_path)}
    else:
        events = EventAccumulator(str(tmp_path / "log"))
        events.Reload()
        steps = {scalar.step for scalar in events.Scalars("loss/total")}
    assert steps == {0, 1, 2, 3, 4, 5}

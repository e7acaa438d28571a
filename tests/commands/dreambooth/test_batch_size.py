"""`--batch-size auto`: the largest batch that is predicted to fit."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldm.commands.dreambooth import batch_size as command
from ldm.commands.dreambooth.batch_size import largest_batch, with_largest_batch
from ldm.commands.dreambooth.memory_table import memory_table
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.config import read_yaml
from ldm.training.dreambooth_config import DreamBoothConfig
from ldm.training.memory import (
    CUDA_CONTEXT,
    CUDA_OVERHEAD,
    GIB,
    MEMORY_PROFILES,
    Chooser,
    Prediction,
    Workload,
    predict,
)
from tests.commands.dreambooth.fine_tuning import FineTune, Plan
from tests.tiny import tiny_config

CPU, CUDA = [torch.device("cpu")], [torch.device("cuda:0")]
WORKLOAD = Workload(tiny_config(), 32, 32)


@pytest.fixture
def two_and_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions of 2 GiB and 1 more for each photo, and a bit that is on no line."""

    def predicted(workload: Workload, config: DreamBoothConfig) -> Prediction:
        return Prediction((2 + config.batch_size) * GIB + (config.batch_size > 2) * GIB // 2, GIB)

    monkeypatch.setattr(command, "predict", predicted)


def chosen(*words: str, devices: list[torch.device] = CPU) -> int:
    options = dreambooth_parser().parse_args(["--batch-size", "auto", *words])
    return with_largest_batch(options, DreamBoothConfig(batch_size=3), WORKLOAD, devices).batch_size


@pytest.mark.usefixtures("two_and_one_each")
@pytest.mark.parametrize(("gib", "size"), [(2, 1), (3, 1), (4, 2), (5, 2), (5.5, 3), (7, 4), (100, command.MOST)])
def test_the_largest_that_fits(gib: float, size: int) -> None:
    found, peak = largest_batch(WORKLOAD, DreamBoothConfig(), int(gib * GIB))
    assert found == size and (peak <= gib * GIB or size == 1)


@pytest.mark.usefixtures("two_and_one_each")
def test_the_budget_is_vram_or_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("--vram", "8") == 5  # 7.6 GiB
    assert chosen("--vram", "8", devices=CUDA) == 3  # 1.25 of them are no tensor's
    free = int(7.5 * GIB) + CUDA_OVERHEAD - CUDA_CONTEXT
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    assert chosen(devices=CUDA) == 5


def test_on_a_cpu_the_models_own_stays(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert chosen() == 3
    assert "batch size: 3, the model's own" in caplog.text


@pytest.mark.slow
def test_it_is_what_is_predicted_and_the_next_would_not_fit() -> None:
    config = DreamBoothConfig()
    budget = predict(WORKLOAD, replace(config, batch_size=3)).peak
    assert largest_batch(WORKLOAD, config, budget) == (3, budget)
    assert largest_batch(WORKLOAD, config, budget - 1)[0] == 2


def test_the_run_records_the_number(plan: Plan, fine_tune: FineTune) -> None:
    assert plan("--batch-size", "auto").module.config.batch_size == 1
    assert read_yaml(fine_tune.root / "can-1" / "run.yaml")["options"]["batch_size"] == 1


def test_the_memory_table_has_a_column_for_it(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = sys.modules[memory_table.__module__]
    monkeypatch.setattr(module, "VRAM", ("auto", "24"))
    monkeypatch.setattr(module, "largest_batch", lambda *_: (7, 0))
    fits = (MEMORY_PROFILES[0], Prediction(GIB, 0))
    monkeypatch.setattr(Chooser, "first_that_fits", lambda *_: fits)
    with caplog.at_level(logging.INFO):
        memory_table(dreambooth_parser().parse_args(["--ckpt-path", str(tiny_checkpoint), "--batch-size", "auto"]))
    rows = [line for line in caplog.messages if line.startswith("| 24")]
    assert len(rows) == 2 and all(row.endswith("| 7 |") for row in rows)

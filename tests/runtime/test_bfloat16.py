"""Whether a CPU computes in bfloat16: measured once, for models that allow it."""

import logging
import time

import pytest
import torch

from ldm.runtime import bfloat16
from ldm.runtime.bfloat16 import bfloat16_speedup, cpu_precision


@pytest.fixture(autouse=True)
def fresh() -> None:
    bfloat16_speedup.cache_clear()


@pytest.mark.parametrize(("slowness", "precision"), [(0.2, "bf16-mixed"), (0.9, "full"), (50.0, "full")])
def test_bfloat16_is_taken_if_it_is_measured_to_be_faster(
    slowness: float, precision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured: list[torch.dtype] = []

    def seconds(dtype: torch.dtype) -> float:
        measured.append(dtype)
        return slowness if dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(bfloat16, "_seconds", seconds)
    with caplog.at_level(logging.INFO):
        assert [cpu_precision(), cpu_precision()] == [precision, precision]
    assert f"precision: {precision}" in caplog.text and f"{1 / slowness:.2g} times as fast" in caplog.text
    assert len(measured) == (2 if slowness == 50.0 else 8)  # once, and no longer than needed


def test_the_measurement_takes_well_under_a_second() -> None:
    began = time.process_time()
    assert 0 < bfloat16_speedup() < 100
    assert time.process_time() - began < 1.0

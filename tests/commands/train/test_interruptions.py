"""Processes that are killed or stopped resume to the weights they would have had."""

import os
import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.commands.calls import call, equal, start
from tests.commands.fixtures import Trained
from tests.commands.processes import wait_for
from tests.commands.train.stages import LAST, Scratch


@pytest.fixture(scope="module")
def uninterrupted(finished: Scratch, first: Path) -> Callable[[str], Trained]:
    """A longer run of a stage in which every kind of randomness and state plays a part. Don't write to it."""
    exact = ("--iterations", 30, "-s", 10, "--save-dtype", "fp32", "--seed", 7, "-o", finished.root / "longer")
    needed = {"autoencoder": (), "diffusion": ("--autoencoder", first / LAST)}
    return cache(lambda stage: finished.train(stage, *needed[stage], *exact))


def assert_same_ends(one: Path, other: Path) -> None:
    """Whether two runs ended with the same weights, averages and optimizers, bit for bit."""
    for step in (10, 20, 30):
        name = f"step-{step:06d}.safetensors"
        assert equal(one / name, other / name), name
    states = [torch.load(run / "resume.ckpt", weights_only=True) for run in (one, other)]
    weights = [state["state_dict"] for state in states]
    assert weights[0].keys() == weights[1].keys()
    assert any(name.startswith("average.") for name in weights[0])
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    moments = [state["optimizer_states"][0]["state"] for state in states]
    for index, values in moments[0].items():
        assert all(torch.equal(value, moments[1][index][name]) for name, value in values.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number", "workers"),
    [
        ("autoencoder", signal.SIGKILL, 2),
        ("diffusion", signal.SIGHUP, 1),
        ("diffusion", signal.SIGTERM, 1),
        ("autoencoder", signal.SIGTERM, 0),
        ("autoencoder", signal.SIGINT, 2),
        ("diffusion", signal.SIGKILL, 0),
    ],
)
def test_an_interrupted_run_resumes_to_bit_identical_weights(
    stage: str,
    number: signal.Signals,
    workers: int,
    scratch: Scratch,
    first: Path,
    uninterrupted: Callable[[str], Trained],
) -> None:
    """The signal reaches all processes, as from a terminal or a batch system; the uninterrupted run had no workers."""
    needed = ("--autoencoder", first / LAST) if stage == "diffusion" else ()
    words = scratch.words(stage, *needed, "--iterations", 30, "-s", 10, "--save-dtype", "fp32", "--seed", 7)
    process = start("train", stage, *words, "--workers", workers, cwd=scratch.root)
    run = scratch.runs / f"{stage}-1"
    wait_for(run / "step-000010.safetensors", process)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert not (run / "step-000030.safetensors").exists()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 75, output
        assert "Traceback" not in output
        assert output.count("stopping after this step") == 1
        assert re.search(
            rf"stopped by {number.name} after update \d+; continue with\n  python train\.py {stage} -r {run}\n", output
        ), output
    outcome = call("train", stage, "-r", run, "--workers", workers)
    assert outcome.status == 0, outcome.said
    assert_same_ends(uninterrupted(stage).directory, run)

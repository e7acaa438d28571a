"""A run on several devices: processes that sample, train, fail and stop together."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.commands.calls import (
    Outcome,
    call,
    difference,
    equal,
    metadata_of,
    pixels,
    refused,
    shell,
    start,
    tensors_of,
)
from tests.commands.fixtures import Trained
from tests.commands.processes import Process, wait_for, wait_until
from tests.commands.test_cluster import SLURM


@pytest.fixture(scope="module")
def on_two_devices(
    tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path
) -> Iterator[tuple[Path, Outcome]]:
    root = tmp_path_factory.mktemp("two")
    words = ("-c", "Tin Can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-d", "cpu,cpu")
    outcome = shell("dreambooth", *words, "--iterations", 3, "-s", 2, "--class-img-count", 3, cwd=root, timeout=600)
    yield root, outcome


@pytest.mark.slow
def test_two_devices_write_one_run(on_two_devices: tuple[Path, Outcome]) -> None:
    root, outcome = on_two_devices
    assert outcome.status == 0, outcome.said
    assert "Traceback" not in outcome.said
    assert {path.name for path in (root / "ckpts").iterdir()} == {"tin-can-1", "class-images"}
    run = root / "ckpts" / "tin-can-1"
    assert sorted(path.name for path in run.glob("step-*")) == ["step-00002.safetensors", "step-00003.safetensors"]
    assert (run / "report.yaml").exists()
    assert len(list((run / "log").glob("*tfevents*"))) == 1
    assert outcome.said.count("3 updates made") == 1
    assert torch.load(run / "resume.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.slow
def test_two_devices_sample_the_same_class_images_as_one(
    on_two_devices: tuple[Path, Outcome], trained: Trained
) -> None:
    ours, theirs = (
        sorted((root / "class-images").rglob("*.png")) for root in (on_two_devices[0] / "ckpts", trained.root)
    )
    assert [path.relative_to(path.parents[1]) for path in ours] == [
        path.relative_to(path.parents[1]) for path in theirs
    ]
    assert all(difference(pixels(one), pixels(other)) <= 1 for one, other in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_two_devices_train_on_the_samples_of_both(on_two_devices: tuple[Path, Outcome], trained: Trained) -> None:
    """Their weights are the mean gradient's of two batches, so not those of one device."""
    assert not equal(on_two_devices[0] / "ckpts" / "tin-can-1" / "step-00003.safetensors", trained.step(3))


@pytest.mark.slow
def test_a_run_on_two_devices_can_be_resumed(on_two_devices: tuple[Path, Outcome], tmp_path: Path) -> None:
    run = tmp_path / "tin-can-1"
    shutil.copytree(on_two_devices[0] / "ckpts" / "tin-can-1", run)
    outcome = shell("dreambooth", "-r", run, "--iterations", 4, cwd=tmp_path, timeout=600)
    assert outcome.status == 0, outcome.said
    assert (run / "step-00004.safetensors").exists()


@pytest.mark.slow
def test_an_error_in_one_of_two_processes_reads_as_in_one(
    subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The base weights are broken, which shows when class images are sampled."""
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "base")
    base, key = tmp_path / "base" / tiny_checkpoint.name, "model.diffusion_model.out.2.bias"
    tensors = tensors_of(tiny_checkpoint)
    save_file(tensors | {key: torch.full_like(tensors[key], torch.nan)}, base, metadata=metadata_of(tiny_checkpoint))
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", base, "-d", "cpu,cpu")
    refused(shell("dreambooth", *words, "--class-img-count", 2, cwd=tmp_path), "not finite")


def process_of_rank(process: Process, rank: int) -> int:
    """The number of the process that trains on this device."""
    return process.pid if rank == 0 else children_of(process.pid)[rank - 1]


def children_of(parent: int) -> list[int]:
    """The commands that a process has started, in order; not the helpers of Python's own that share semaphores."""
    numbers = (Path("/proc") / str(parent) / "task" / str(parent) / "children").read_text().split()
    ours = [n for n in numbers if b"resource_tracker import main" not in (Path("/proc") / n / "cmdline").read_bytes()]
    return sorted(map(int, ours))


def stop_two_devices(root: Path, subject_dir: Path, tiny_checkpoint: Path, send: Callable[[Process], None]) -> Outcome:
    """Starts a long run on two devices, sends a signal after its first checkpoint, and waits for the end of both."""
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-d", "cpu,cpu", "--no-previews")
    flags = ("--iterations", 5000, "-s", 5, "--class-img-count", 0)
    process = start(
        "dreambooth", *words, *flags, cwd=root, environment=SLURM | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    )
    try:
        wait_for(root / "ckpts" / "can-1" / "resume.ckpt", process)
        other = process_of_rank(process, 1)
        send(process)
        output, _ = process.communicate(timeout=60)
        end = time.monotonic() + 20
        while Path(f"/proc/{other}").exists():
            assert time.monotonic() < end, "the second process still runs"
            time.sleep(0.05)
        output, _ = process.communicate()
        return Outcome(process.returncode, output)
    except subprocess.TimeoutExpired:
        return pytest.fail("the processes wait for each other")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "send",
    [
        lambda process: os.killpg(process.pid, signal.SIGINT),
        lambda process: process.send_signal(signal.SIGTERM),
        lambda process: os.kill(process_of_rank(process, 1), signal.SIGUSR1),
    ],
    ids=["Ctrl-C reaches both", "kill reaches the first", "a signal reaches the second"],
)
def test_a_signal_stops_both_processes_after_the_same_step(
    send: Callable[[Process], None], subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = stop_two_devices(tmp_path, subject_dir, tiny_checkpoint, send)
    assert outcome.status == 75, outcome.said
    assert "Traceback" not in outcome.said
    updates = set(re.findall(r"stopped by SIG[A-Z]+ after update (\d+)", outcome.said))
    state = torch.load(tmp_path / "ckpts" / "can-1" / "resume.ckpt", weights_only=True)
    assert updates == {str(state["global_step"])}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_can_be_resumed(
    rank: int, subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = stop_two_devices(
        tmp_path, subject_dir, tiny_checkpoint, lambda process: os.kill(process_of_rank(process, rank), signal.SIGKILL)
    )
    assert outcome.status == (1 if rank else -signal.SIGKILL), outcome.said
    assert "Traceback" not in outcome.said
    assert "gloo" not in outcome.said
    run = tmp_path / "ckpts" / "can-1"
    words = f"ended unexpectedly{' (SIGKILL; was the memory full?)' if rank else ''}"
    for text in (outcome.said, (run / "run.log").read_text()):
        assert words in text
        assert text.rstrip().endswith("python dreambooth.py -r ckpts/can-1")
    made = torch.load(run / "resume.ckpt", weights_only=True)["global_step"]
    outcome = call("dreambooth", "-r", run, "--iterations", made + 1, "-d", "cpu")
    assert outcome.status == 0, outcome.said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "who", "status"),
    [
        (signal.SIGKILL, "a helper", 1),
        (signal.SIGTERM, "the first", 75),
        (signal.SIGUSR1, "a helper", 75),
        (signal.SIGINT, "all", 75),
    ],
)
def test_processes_that_sample_class_images_end_together(
    number: signal.Signals, who: str, status: int, subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-d", "cpu,cpu", "--gb", 1)
    process = start("dreambooth", *words, "--class-img-count", 2000, "--ddim-steps", 20, cwd=tmp_path)
    images = tmp_path / "ckpts" / "class-images"
    try:
        wait_until("the sixth image", lambda: len(list(images.glob("*/*.png"))) > 5, process)
        helpers = children_of(process.pid)
        assert len(helpers) == 2
        if who == "all":
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid if who == "the first" else helpers[1], number)
        output, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status, output
    assert not [helper for helper in helpers if Path(f"/proc/{helper}").exists()]
    assert "Traceback" not in output
    assert output.rstrip().endswith("; continue with\n  python dreambooth.py -r ckpts/can-1")
    assert ("(SIGKILL; was the memory full?)" in output) == (number == signal.SIGKILL)
    for path in images.rglob("*.png"):
        assert pixels(path).shape == (32, 32, 3)

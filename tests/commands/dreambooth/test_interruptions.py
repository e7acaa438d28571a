"""Processes that are killed or stopped by Ctrl-C lose nothing."""

import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.commands.calls import call, difference, equal, pixels, shell, start
from tests.commands.fixtures import EXACT, Trained
from tests.commands.processes import wait_for, wait_until


@pytest.fixture
def exact_words(tmp_path: Path, subject_dir: Path, tiny_checkpoint: Path, uninterrupted: Trained) -> tuple[object, ...]:
    """The command line of the uninterrupted run, in a directory that has its class images already."""
    shutil.copytree(uninterrupted.root / "class-images", tmp_path / "class-images")
    return ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, *EXACT)


def assert_equal_runs(one: Path, other: Path) -> None:
    """Whether both runs hold the same checkpoints, bit for bit, and the same previews."""
    steps = sorted(path.name for path in one.glob("step-*.safetensors"))
    assert steps == [f"step-{step:05d}.safetensors" for step in (3, 6, 9, 12)]
    assert sorted(path.name for path in other.glob("step-*.safetensors")) == steps
    for name in steps:
        assert equal(one / name, other / name), name
    previews = sorted(path.relative_to(one) for path in (one / "samples").rglob("*.png"))
    assert len(previews) == 5 + 5 * 2 + 1
    for image in previews:
        assert difference(pixels(one / image), pixels(other / image)) == 0, image


def test_a_killed_run_continues_to_bit_identical_weights(
    exact_words: tuple[object, ...], uninterrupted: Trained, tmp_path: Path
) -> None:
    process = start("dreambooth", *exact_words, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00006.safetensors", process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "can-1" / "step-00012.safetensors").exists()
    outcome = call("dreambooth", "-r", tmp_path / "can-1")
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, tmp_path / "can-1")


@pytest.mark.slow
def test_ctrl_c_stops_after_the_step_and_says_how_to_continue(
    exact_words: tuple[object, ...], uninterrupted: Trained, tmp_path: Path
) -> None:
    process = start("dreambooth", *exact_words, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00003.safetensors", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "Traceback" not in output
    stopped = re.search(r"stopped by SIGINT after update (\d+); continue with\n  python dreambooth.py -r (.*)", output)
    assert stopped, output
    state = torch.load(tmp_path / "can-1" / "resume.ckpt", weights_only=True)
    assert state["global_step"] == int(stopped[1]) < 12
    assert not (tmp_path / "can-1" / "report.yaml").exists()
    outcome = call("dreambooth", "-r", stopped[2])
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, tmp_path / "can-1")
    assert stopped[0].splitlines()[-1] in (tmp_path / "can-1" / "run.log").read_text()


@pytest.mark.slow
def test_a_run_that_is_killed_twice_is_resumed_by_another_process(
    exact_words: tuple[object, ...], uninterrupted: Trained, tmp_path: Path
) -> None:
    """Killed twice: while the first checkpoint is awaited, and after the resumed run's first one."""
    process = start("dreambooth", *exact_words, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "log", process)
    process.kill()
    process.communicate()
    process = start("dreambooth", "-r", "can-1", cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00009.safetensors", process)
    process.kill()
    process.communicate()
    outcome = shell("dreambooth", "-r", "can-1", cwd=tmp_path)
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, tmp_path / "can-1")


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(exact_words: tuple[object, ...], tmp_path: Path) -> None:
    process = start("dreambooth", *exact_words, "--iterations", 2000, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00003.safetensors", process)
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)  # two within a second are one
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output
    assert process.returncode == 75, output


@pytest.mark.slow
def test_ctrl_c_keeps_the_class_images_so_far(subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, "--gb", 1)
    process = start("dreambooth", *words, "--class-img-count", 500, "--ddim-steps", 20, cwd=tmp_path)
    directory = tmp_path / "class-images"
    wait_until("the third class image", lambda: len(list(directory.glob("*/*.png"))) >= 3, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert f"stopped by SIGINT; continue with\n  python dreambooth.py -r {tmp_path / 'can-1'}" in output
    assert "Traceback" not in output
    sampled = sorted(directory.rglob("*.png"))
    assert 3 <= len(sampled) < 500
    assert {pixels(path).shape for path in sampled} == {(32, 32, 3)}
    assert not list(directory.rglob("*.partial"))

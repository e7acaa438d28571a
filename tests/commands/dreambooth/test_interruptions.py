"""A process that is killed loses nothing."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.commands.calls import call, difference, equal, pixels, start
from tests.commands.fixtures import EXACT, Trained
from tests.commands.processes import wait_for


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


@pytest.mark.slow  # test_leftovers.py kills a shorter run in every default call of the tests
def test_a_killed_run_continues_to_bit_identical_weights(
    subject_dir: Path, tiny_checkpoint: Path, uninterrupted: Trained, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted.root / "class-images", tmp_path / "class-images")
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, *EXACT)
    process = start("dreambooth", *words, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00006.safetensors", process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "can-1" / "step-00012.safetensors").exists()
    outcome = call("dreambooth", "-r", tmp_path / "can-1")
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, tmp_path / "can-1")

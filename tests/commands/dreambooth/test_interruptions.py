"""A process that is killed or stopped by Ctrl-C loses nothing."""

import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_an_interrupted_run_resumes_to_bit_identical_weights(
    number: signal.Signals, subject_dir: Path, tiny_checkpoint: Path, uninterrupted: Trained, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted.root / "class-images", tmp_path / "class-images")
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, *EXACT)
    run = tmp_path / "can-1"
    process = start("dreambooth", *words, cwd=tmp_path)  # which doesn't ignore Ctrl-C, as a shell's background does
    wait_for(run / "step-00006.safetensors", process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert not (run / "step-00012.safetensors").exists()
    assert not (run / "report.yaml").exists()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 75, output
        assert "Traceback" not in output
        hint = r"stopped by SIGINT after update (\d+); continue with\n  python dreambooth\.py -r (.*)\n"
        stopped = re.search(hint, output)
        assert stopped and stopped[2] == str(run), output
        assert torch.load(run / "resume.ckpt", weights_only=True)["global_step"] == int(stopped[1]) < 12
    outcome = call("dreambooth", "-r", run)
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, run)

"""Fine-tuning from Python: the command's run, which can be interrupted and continued."""

import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ldm
from ldm.checkpoint.discovery import RESUME_STATE
from ldm.config import read_yaml
from ldm.training.dreambooth import DreamBooth
from tests.commands.calls import equal
from tests.commands.fixtures import Trained

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.slow
def test_a_stopped_training_goes_on_and_ends_with_the_bits_of_the_command(
    trained: Trained, tiny_checkpoint: Path, subject_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DreamBooth, "training_step", interrupted_in_update(4, DreamBooth.training_step))
    with pytest.raises(KeyboardInterrupt, match=r"stopped by SIGINT after update 4; continue with"):
        ldm.fine_tune(
            subject_dir, class_name="Tin Can", ckpt_path=tiny_checkpoint, output_dir=tmp_path, iterations=7,
            save_every=3, class_img_count=3,
        )  # fmt: skip
    assert (tmp_path / "tin-can-1" / RESUME_STATE).is_file()
    run = ldm.fine_tune(resume_dir=tmp_path / "tin-can-1")
    assert run == ldm.Run(tmp_path / "tin-can-1")
    assert [one.step for one in run.checkpoints] == [3, 6, 7]
    for one in run.checkpoints:
        assert equal(one.path, trained.step(one.step))
    assert read_yaml(run.directory / "run.yaml")["command"].startswith("python dreambooth.py --instance-img-dir=")
    assert ldm.load(run.checkpoints[-1], device="cpu").metadata.step == 7


def interrupted_in_update(number: int, step: Any) -> Any:
    """A training step with Ctrl-C in the middle of one update."""
    count = 0

    def with_interrupt(*arguments: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments, **more)

    return with_interrupt


def test_a_run_that_is_there_shows_its_checkpoints_and_previews(trained: Trained, tmp_path: Path) -> None:
    run = ldm.Run(trained.directory)
    assert [one.path for one in run.checkpoints] == [trained.step(step) for step in (3, 6, 7)]
    previews = run.previews()
    with Image.open(trained.directory / "samples" / "sweep.png") as sheet:
        assert previews is not None and previews.size == sheet.size
    with pytest.raises(ldm.UserError, match=r"is no run of dreambooth\.py"):
        ldm.Run(tmp_path)


def test_mistakes_are_found_before_anything_is_written(subject_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ldm.UserError) as error:
        ldm.fine_tune(subject_dir, output_dir=tmp_path / "ckpts")
    assert str(error.value) == 'class_name is needed: what the subject is, such as class_name="water bottle"'
    with pytest.raises(ldm.UserError, match=r'class_name="water bottle"; .* photos .* instance_img_dir="data/bottle"'):
        ldm.fine_tune(output_dir=tmp_path / "ckpts")
    with pytest.raises(ldm.UserError, match="directory should be a path, not 5"):
        ldm.Run(5)  # type: ignore[arg-type]
    with pytest.raises(ldm.UserError, match="there is no option 'save_evry'; did you mean 'save_every'"):
        ldm.fine_tune(subject_dir, class_name="can", output_dir=tmp_path / "ckpts", save_evry=3)
    with pytest.raises(ldm.UserError, match=r"for several run dreambooth\.py"):
        ldm.fine_tune(subject_dir, class_name="can", output_dir=tmp_path / "ckpts", devices="cpu,cpu")
    assert not (tmp_path / "ckpts").exists()

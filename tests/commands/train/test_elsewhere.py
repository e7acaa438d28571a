"""train.py -r after images and weights have moved, and without its resume state."""

import shutil
from pathlib import Path

import pytest

from ldm.config import read_yaml
from ldm.nn.tokenizer import tokenizer_digest
from tests.commands.calls import call, info_of, refused
from tests.commands.train.stages import LAST, Scratch, copied


@pytest.mark.slow
def test_a_run_that_moved_with_all_its_files_is_resumed_without_a_flag(
    scratch: Scratch, first: Path, tmp_path: Path
) -> None:
    root = tmp_path / "old"
    (root / "autoencoder").mkdir(parents=True)
    shutil.copytree(scratch.images, root / "pictures")
    autoencoder = shutil.copy(first / LAST, root / "autoencoder")
    flags = ("-i", root / "pictures", "-o", root / "runs", "--autoencoder", autoencoder, "--iterations", 1)
    scratch.train("diffusion", *flags)
    root.rename(tmp_path / "new")
    run = tmp_path / "new" / "runs" / "diffusion-1"
    outcome = call("train", "diffusion", "-r", run, "--iterations", 2)
    assert outcome.status == 0, outcome.said
    options = read_yaml(run / "run.yaml")["options"]
    assert options["image_dir"] == str(tmp_path / "new" / "pictures")
    assert options["autoencoder"] == str(tmp_path / "new" / "autoencoder" / LAST)
    assert options["output_dir"] == str(tmp_path / "new" / "runs")


@pytest.mark.slow
def test_images_and_weights_may_be_given_at_another_place(scratch: Scratch, first: Path, tmp_path: Path) -> None:
    autoencoder = shutil.copy(first / LAST, tmp_path / "ae.safetensors")
    run = scratch.train("diffusion", "--autoencoder", autoencoder, "--iterations", 1).directory
    (tmp_path / "far").mkdir()
    moved = shutil.move(autoencoder, tmp_path / "far" / "other-name.safetensors")
    images = shutil.move(scratch.images, tmp_path / "far" / "images")
    refused(call("train", "diffusion", "-r", run), "ae.safetensors", "SHA-256", "--autoencoder")
    refused(call("train", "diffusion", "-r", run, "--autoencoder", moved), str(scratch.images), "--image-dir")
    words = ("--autoencoder", moved, "-i", images, "--iterations", 2)
    outcome = call("train", "diffusion", "-r", run, *words)
    assert outcome.status == 0, outcome.said


@pytest.mark.slow
def test_a_finished_run_without_its_resume_state_is_not_begun_again(
    first: Path, second: Path, scratch: Scratch
) -> None:
    for stage, source in (("autoencoder", first), ("diffusion", second)):
        run = copied(source, scratch)
        (run / "resume.ckpt").unlink()
        outcome = call("train", stage, "-r", run)
        assert outcome.status == 0 and "is finished: all 6 updates are made" in outcome.said
        refused(call("train", stage, "-r", run, "--iterations", 9), "resume.ckpt is not there", f"train.py {stage} -i")


def test_a_damaged_tokenizer_is_repaired_and_named_in_checkpoints(
    second: Path, finished: Scratch, scratch: Scratch
) -> None:
    run = copied(second, scratch)
    digest = tokenizer_digest(finished.tokenizer)
    assert read_yaml(run / "run.yaml")["tokenizer"] == info_of(run / LAST).tokenizer == digest
    (run / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\n")
    outcome = call("train", "diffusion", "-r", run, "--iterations", 7)
    assert outcome.status == 0, outcome.said
    assert tokenizer_digest(run / "tokenizer") == digest

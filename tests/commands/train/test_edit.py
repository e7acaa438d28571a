"""train.py edit: from pairs of images to a checkpoint with which img2img.py edits."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ldm.checkpoint.reading import read_checkpoint
from tests.commands.calls import call, info_of, refused, tensors_of
from tests.commands.fixtures import Trained

FIRST_CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"
FLAGS = ("--iterations", 4, "-s", 2, "--batch-size", 2, "--save-dtype", "fp32", "--learning-rate", 1e-3)


def write_pairs(directory: Path) -> Path:
    directory.mkdir()
    lines = []
    for index, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (36, 32), (40 * index, 90, 60)).save(directory / f"{index}.png")
        Image.new("RGB", (36, 32), colour).save(directory / f"{index}-edited.png")
        row = {"input_image": f"{index}.png", "edit_prompt": f"make it {colour}", "edited_image": f"{index}-edited.png"}
        lines.append(json.dumps(row))
    (directory / "metadata.jsonl").write_text("\n".join(lines))
    return directory


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs")


def edit(tmp_path: Path, *arguments: object) -> Trained:
    outcome = call("train", "edit", "-o", tmp_path / "runs", *arguments)
    assert outcome.status == 0, outcome.said
    return Trained(max((tmp_path / "runs").glob("edit-*")), outcome)


def test_a_model_is_trained_to_edit_and_img2img_reads_it(
    pairs: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = edit(tmp_path, "-i", pairs, "--ckpt-path", tiny_checkpoint, *FLAGS).directory
    last = run / "step-000004.safetensors"
    before, after = tensors_of(tiny_checkpoint)[FIRST_CONVOLUTION], tensors_of(last)[FIRST_CONVOLUTION]
    assert (before.shape[1], after.shape[1]) == (4, 8) and after[:, 4:].any()
    info = info_of(last)
    assert info.config["edit_training"]["size"] == 32, "the model's own, as its YAML names none"
    assert Image.open(run / "samples" / "step-000004.png").width > 5 * 32
    outcome = call("img2img", "-i", pairs / "0.png", "-p", "make it blue", "-v", 1, "-c", last)
    assert outcome.status == 0, outcome.said


@pytest.mark.slow
def test_a_model_that_edits_is_trained_on(pairs: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    flags = ("-i", pairs, "--iterations", 1, "-s", 1, "--batch-size", 1)
    first = edit(tmp_path, "--ckpt-path", tiny_checkpoint, *flags).directory / "step-000001.safetensors"
    second = edit(tmp_path, "--ckpt-path", first, *flags).directory / "step-000001.safetensors"
    one, other = (tensors_of(path)[FIRST_CONVOLUTION] for path in (first, second))
    assert one.shape == other.shape and other.shape[1] == 8


@pytest.mark.slow
def test_a_run_that_was_stopped_resumes_to_the_same_bits(pairs: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = edit(tmp_path, "-i", pairs, "--ckpt-path", tiny_checkpoint, *FLAGS).directory
    half = edit(tmp_path, "-i", pairs, "--ckpt-path", tiny_checkpoint, *FLAGS[2:], "--iterations", 2).directory
    moved = shutil.move(pairs, half.parent / "pairs")
    outcome = call("train", "edit", "-r", half, "-i", moved, "--iterations", 4)
    assert outcome.status == 0, outcome.said
    names = [path.name for path in sorted(whole.glob("step-*"))]
    for name in names:
        one, other = (read_checkpoint(run / name).tensors for run in (whole, half))
        assert all((one[key] == other[key]).all() for key in one)
    assert (whole / "samples" / "step-000004.png").read_bytes() == (half / "samples" / "step-000004.png").read_bytes()
    (moved / "0.png").write_bytes((moved / "1.png").read_bytes() + b" ")
    refused(call("train", "edit", "-r", half, "--iterations", 6), "are not those that this run began with")


def test_what_can_not_be_trained_is_refused(pairs: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    refused(call("train", "edit", "-i", pairs, "-o", tmp_path / "runs"), "--ckpt-path is needed")
    refused(call("train", "edit", "--ckpt-path", tiny_checkpoint, "-o", tmp_path / "runs"), "pairs of images")
    (pairs / "metadata.jsonl").unlink()
    flags = ("-i", pairs, "--ckpt-path", tiny_checkpoint, "-o", tmp_path / "runs")
    refused(call("train", "edit", *flags), "holds no pairs of images with instructions")
    assert not (tmp_path / "runs").exists()

"""txt2img.py -r and its like after checkpoints, images and base weights have moved."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from ldm.config import read_yaml, to_yaml
from tests.commands.calls import call, refused
from tests.commands.fixtures import Sample, UNetCall
from tests.report.tables import record, table_of, tuned
from tests.tiny import build_tiny_model, write_tiny_checkpoint


@pytest.fixture
def project(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """ckpts/mug-1 with two steps, the base and the photos that its record names."""
    root = tmp_path / "project"
    base = write_tiny_checkpoint(root / "weights", name="base.safetensors", model=build_tiny_model(7))
    (root / "photos").mkdir()
    Image.new("RGB", (40, 40), "red").save(root / "photos" / "1.png")
    for step in (5, 10):
        tuned(root / "ckpts" / "mug-1", base, step, seed=step)
    record(root / "ckpts" / "mug-1", base, root / "photos")
    run = root / "ckpts" / "mug-1" / "run.yaml"
    run.write_text(to_yaml({**read_yaml(run), "directory": str(run.parent)}))
    return root


def test_a_comparison_that_moved_with_its_checkpoints_resumes_and_samples_nothing_again(
    txt2img: Sample, project: Path, tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    """Its base model and photos, which have moved with them, are found as well."""
    sampled = txt2img("-c", project / "ckpts", "-v", 1, "-o", project / "outputs")
    assert table_of(sampled).rows[0].is_base
    project.rename(tmp_path / "moved")
    directory = tmp_path / "moved" / "outputs" / sampled.directory.name
    unet_calls.clear()
    outcome = call("txt2img", "-r", directory)
    assert outcome.status == 0, outcome.said
    assert not unet_calls
    comparison = table_of(type(sampled)(directory, ""))
    assert [Path(row.checkpoint).parent for row in comparison.rows] == [
        tmp_path / "moved" / "weights", *[tmp_path / "moved" / "ckpts" / "mug-1"] * 2
    ]  # fmt: skip
    assert comparison.groups[0].photos
    assert read_yaml(directory / "run.yaml")["options"]["ckpt_path"] == str(tmp_path / "moved" / "ckpts")


def test_an_older_call_with_relative_paths_in_its_record_resumes_after_it_moved(
    txt2img: Sample, project: Path, tmp_path: Path, unet_calls: list[UNetCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record knows no content and no directory of its own: the folders say which checkpoints are meant."""
    monkeypatch.chdir(project)
    sampled = txt2img("-c", "ckpts", "-v", 1, "-o", "outputs", "--no-base")
    written = read_yaml(path := sampled.directory / "run.yaml")
    assert not any(Path(one).is_absolute() for one in written["checkpoints"])
    path.write_text(to_yaml({key: value for key, value in written.items() if key not in ("known", "directory")}))
    monkeypatch.chdir(tmp_path)
    project.rename(tmp_path / "moved")
    unet_calls.clear()
    outcome = call("txt2img", "-r", tmp_path / "moved" / sampled.directory)
    assert outcome.status == 0, outcome.said
    assert not unet_calls


def test_checkpoints_that_moved_alone_are_given_again(
    txt2img: Sample, project: Path, tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    sampled = txt2img("-c", project / "ckpts", "-v", 1, "--no-base")
    shutil.move(project / "ckpts", tmp_path / "far")
    refused(call("txt2img", "-r", sampled.directory), str(project / "ckpts"), "step-00005.safetensors", "--ckpt-path")
    other = tuned(tmp_path / "others" / "mug-1", project / "weights" / "base.safetensors", 5, seed=99)
    refused(call("txt2img", "-r", sampled.directory, "-c", other.parent.parent), "--ckpt-path can't change")
    unet_calls.clear()
    outcome = call("txt2img", "-r", sampled.directory, "-c", tmp_path / "far")
    assert outcome.status == 0, outcome.said
    assert not unet_calls


def test_a_single_checkpoint_is_found_beside_the_call(
    txt2img: Sample, project: Path, tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    sampled = txt2img("-c", project / "ckpts" / "mug-1" / "step-00005.safetensors", "-v", 1, "-o", tmp_path / "out")
    shutil.rmtree(project / "ckpts" / "mug-1" / "tokenizer")
    shutil.move(project / "ckpts" / "mug-1" / "step-00005.safetensors", tmp_path / "out")
    shutil.copytree(project / "weights" / "tokenizer", tmp_path / "out" / "tokenizer")
    unet_calls.clear()
    assert call("txt2img", "-r", sampled.directory).status == 0
    assert not unet_calls


def test_the_initial_image_may_move_but_not_change(img2img: Sample, tmp_path: Path, unet_calls: list[UNetCall]) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "sketch.png")
    sampled = img2img("-i", tmp_path / "sketch.png", "-v", 1)
    (tmp_path / "far").mkdir()
    moved = shutil.move(tmp_path / "sketch.png", tmp_path / "far" / "mine.png")
    unet_calls.clear()
    refused(call("img2img", "-r", sampled.directory), "sketch.png", "SHA-256", "--init-img")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "other.png")
    refused(call("img2img", "-r", sampled.directory, "-i", tmp_path / "other.png"), "--init-img can't change")
    assert call("img2img", "-r", sampled.directory, "-i", moved).status == 0
    assert not unet_calls

"""LoRA files: merged into a checkpoint by `--lora`, and compared as checkpoints."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import ldm
from ldm.checkpoint.lora import data_hash, read_lora
from ldm.checkpoint.merging import merged
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import hash_file
from ldm.commands.elsewhere import sha256_of
from ldm.commands.sampling import job, loop, planning
from ldm.data.images import own_text
from tests.checkpoint.diffusers_files import write_tiny_directory
from tests.commands.calls import call, refused
from tests.commands.fixtures import Sample
from tests.commands.sampling.test_from_image import copy_with_parameters
from tests.loras import write_lora
from tests.report.tables import table_of, tuned
from tests.tiny import TINY_YAML, write_tiny_checkpoint


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "base")


def test_they_are_merged_into_the_weights_with_their_own_weights_and_the_image_says_so(
    txt2img: Sample, base: Path, tmp_path: Path
) -> None:
    one, other = write_lora(tmp_path / "one.safetensors", base), write_lora(tmp_path / "b.safetensors", base, seed=1)
    file = read_checkpoint(base)
    whole = merged(merged(file, read_lora(read_checkpoint(one), file), 0.5), read_lora(read_checkpoint(other), file))
    save_file({key: whole.tensors[key] for key in whole.tensors}, base.parent / "whole.safetensors", file.metadata)
    words = ("-p", "a cat", "-v", 1)
    sampled = txt2img("-c", base, *words, "--lora", f"{one}:0.5", other)
    assert np.array_equal(sampled.images[0], txt2img("-c", base.parent / "whole.safetensors", *words).images[0])
    assert not np.array_equal(sampled.images[0], txt2img("-c", base, *words).images[0])
    image = Image.open(sampled.paths[0])
    assert own_text(image, "lora") == "one.safetensors:0.5, b.safetensors:1"
    text = image.text
    assert text["parameters"].startswith("a cat <lora:one:0.5> <lora:b:1>\nSteps: 3")
    assert f'Lora hashes: "one: {data_hash(one)[:12]}, b: {data_hash(other)[:12]}"' in text["parameters"]
    kept = sampled.images[0]
    repeated = txt2img("-c", base, "--from-image", sampled.paths[0])
    assert "not repeated: lora one.safetensors:0.5, b.safetensors:1 (--lora gives it)" in repeated.said
    tagged = copy_with_parameters(sampled.paths[0], tmp_path / "tagged.png")
    plain = txt2img("-c", base, "--from-image", tagged)
    assert "not repeated: lora one:0.5, b:1 (--lora gives it)" in plain.said
    assert plain.record["options"]["prompt"] == ["a cat"]
    again = txt2img("-c", base, "--from-image", tagged, "--lora", f"{one}:0.5", other)
    assert "not repeated" not in again.said and np.array_equal(again.images[0], kept)
    sampled.paths[0].unlink()
    other.rename(base.parent / other.name)  # a resumed call looks for it near its old place
    assert call("txt2img", "-r", sampled.directory).status == 2  # it isn't near
    (base.parent / other.name).rename(sampled.directory / other.name)
    again = txt2img("-c", base, "-r", sampled.directory)
    assert np.array_equal(again.images[0], kept)
    (sampled.directory / other.name).rename(other)
    assert np.array_equal(
        np.asarray(ldm.load(base, device="cpu", lora=[f"{one}:0.5", other]).sample("a cat").images[0]),
        sampled.images[0],
    )


def test_a_folder_of_them_is_compared_with_their_base_model_first(txt2img: Sample, base: Path, tmp_path: Path) -> None:
    """Steps of two runs: ours with metadata, kohya's with theirs, one without any; and one of another model."""
    info = CheckpointInfo(class_name="mug", instance_prompt="a photo of sks mug", base=base.name,
                          base_sha256=hash_file(base))  # fmt: skip
    folder = tmp_path / "loras"
    for step in (5, 10):
        write_lora(folder / f"mug-{step:06d}.safetensors", base, step, **{**info.to_metadata(), "ldm.step": f"{step}"})
    write_lora(folder / "kohya.safetensors", base, 3, ss_new_sd_model_hash=hash_file(base), ss_sd_model_name=base.name)
    write_lora(folder / "nameless.safetensors", base, 4)
    save_file({"lora_te2_x.alpha": read_checkpoint(base).tensors["betas"]}, folder / "xl.safetensors")
    sampled = txt2img("-c", folder, "-v", 1, "--base", base, "--subject", "mug")
    comparison = table_of(sampled)
    assert [row.label for row in comparison.rows] == [
        "base model", "kohya", "mug-000005", "mug-000010", "nameless",
    ]  # fmt: skip
    assert [group.subject for group in comparison.groups] == ["mug"]
    assert len({image.tobytes() for image in sampled.images}) == 5
    assert "xl.safetensors is a LoRA of Stable Diffusion XL" in sampled.said
    row = next(row for row in comparison.rows if row.label == "nameless")
    assert row.cells[0] is not None
    image = Image.open(sampled.directory / row.cells[0].file)
    assert (own_text(image, "checkpoint"), own_text(image, "base")) == ("nameless.safetensors", base.name)
    parameters = image.text["parameters"]
    assert "<lora:nameless:1>" in parameters and f"Model: {base.stem}," in parameters
    resumed = call("txt2img", "-r", sampled.directory)
    assert resumed.status == 0 and "nothing is missing" in resumed.said


def test_the_yaml_of_its_training_serves_a_base_model_without_one(txt2img: Sample, base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "base" / "bare.safetensors"
    save_file(dict(read_checkpoint(base).tensors), bare)
    ours = write_lora(base.parent / "a.safetensors", base, **CheckpointInfo(config=TINY_YAML).to_metadata())
    images = [txt2img("-c", ours, "--base", one, "-v", 1, "-p", "a cat").images[0] for one in (base, bare)]
    assert np.array_equal(*images)


def test_one_alone_finds_the_base_model_beside_it_or_names_the_flag(txt2img: Sample, base: Path) -> None:
    metadata = {"ss_new_sd_model_hash": hash_file(base), "ss_sd_model_name": base.name}
    path = write_lora(base.parent / "a.safetensors", base, **metadata)
    alone = txt2img("-c", path, "-v", 1, "-p", "a cat")
    assert f"Model hash: {hash_file(base)[:10]}, Model: {base.stem}," in Image.open(alone.paths[0]).text["parameters"]
    assert "not repeated: base tiny.safetensors" in txt2img("-c", base, "--from-image", alone.paths[0]).said
    copy = copy_with_parameters(alone.paths[0], base.parent / "a.png")
    assert "was made with the model" not in txt2img("-c", path, "--from-image", copy).said
    nameless = write_lora(base.parent / "b.safetensors", base)
    assert np.array_equal(txt2img("-c", nameless, "--base", base, "-v", 1, "-p", "a cat").images[0], alone.images[0])
    refused(call("txt2img", "-c", nameless), "b.safetensors is a LoRA that doesn't name its base model", "--base PATH")
    moved = write_lora(base.parent / "c.safetensors", base, **{**metadata, "ss_new_sd_model_hash": "0" * 64})
    refused(call("txt2img", "-c", moved), "with the SHA-256 000000000000... was not found", "--base PATH gives it")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lora", "{base}"], "tiny.safetensors is no LoRA"),
        (["--lora", "{base}:1000"], "should have a weight from -100 to 100"),
        (["--lora", "nowhere.safetensors:0.5"], "there is no checkpoint nowhere.safetensors"),
    ],
)
def test_mistakes_are_named_before_anything_is_made(
    flags: list[str], words: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(call("txt2img", "-c", base, "-v", 1, *(flag.replace("{base}", str(base)) for flag in flags)), words)
    assert not (tmp_path / "outputs").exists()


def ten_of_two_runs(folder: Path, base: Path) -> list[str]:
    """Five steps of each of two runs, renamed, every second one without metadata; their names in order."""
    names = []
    for run, name in enumerate(("cool", "final")):
        for index in range(5):
            about = {"class_name": "can", "instance_prompt": "a photo of sks can", "class_prompt": "a photo of a can"}
            info = CheckpointInfo(**about, step=100 * (index + 1), base=base.name, base_sha256=hash_file(base))
            metadata = {} if index % 2 else {**info.to_metadata(), "ss_steps": f"{info.step}"}
            names.append(f"{name}_v{index + 1}")
            write_lora(folder / f"{names[-1]}.safetensors", base, 5 * run + index, std=0.03 * (index + 1), **metadata)
    return names


@pytest.mark.slow
def test_a_folder_of_ten_without_half_of_their_metadata_is_compared_scored_and_judged(
    base: Path, tmp_path: Path, subject_dir: Path
) -> None:
    names = ten_of_two_runs(tmp_path / "loras", base)
    words = ("-c", tmp_path / "loras", "-o", tmp_path / "outputs", "-i", subject_dir, "-v", 1)
    refused(call("evaluate", *words, "--encoder", "toyworld-judge"), "--base PATH gives the base model of LoRA files")
    assert not (tmp_path / "outputs").exists()
    flags = ("--base", base, "--subject", "can", "--encoder", "toyworld-judge")
    outcome = call("evaluate", *words, *flags)
    assert outcome.status == 0, outcome.said
    assert "comparing 10 checkpoints" in outcome.said and "warning: left out" not in outcome.said
    table = json.loads((tmp_path / "outputs" / "evaluate-1" / "comparison.json").read_text())
    assert [row["label"] for row in table["rows"]] == ["base model", *names]
    assert all(row["scores"] for row in table["rows"])
    (group,) = table["groups"]
    best = max(table["rows"][1:], key=lambda row: row["scores"]["subject"]["mean"])["label"]
    assert group["subject"] == "can" and f"at {best}." in outcome.said


def test_a_file_that_goes_during_a_call_has_its_hash_in_the_image(
    txt2img: Sample, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = write_lora(base.parent / "a.safetensors", base)
    short_hash = data_hash(lora)[:12]

    def text_after_deleting(*arguments: Any) -> dict[str, object]:
        lora.unlink()
        return job.png_text(*arguments)

    monkeypatch.setattr(loop, "png_text", text_after_deleting)
    (path,) = txt2img("-c", base, "-v", 1, "-p", "a cat", "--lora", lora).paths
    assert f'Lora hashes: "a: {short_hash}"' in Image.open(path).text["parameters"]


def test_a_comparison_with_them_is_resumed_after_its_checkpoints_have_moved(
    txt2img: Sample, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = mock.Mock(wraps=planning.changes_of)
    monkeypatch.setattr(planning, "changes_of", changes)
    tuned(tmp_path / "ckpts" / "mug-1", base)
    lora = write_lora(tmp_path / "a.safetensors", base)
    sampled = txt2img("-c", tmp_path / "ckpts", "-v", 1, "-p", "a cat", "--lora", lora)
    assert not any("bytes" in identity for identity in sampled.record["known"].values())
    assert changes.call_count == 1  # it hashes the files
    (tmp_path / "ckpts").rename(tmp_path / "moved")
    resumed = call("txt2img", "-r", sampled.directory, "-c", tmp_path / "moved")
    assert resumed.status == 0, resumed.said


def test_its_base_model_may_be_a_diffusers_directory(txt2img: Sample, base: Path, tmp_path: Path) -> None:
    directory = write_tiny_directory(tmp_path / "loras" / "mine")
    metadata = CheckpointInfo(base=directory.name, base_sha256=sha256_of(directory)).to_metadata()
    path = write_lora(tmp_path / "loras" / "a.safetensors", base, **metadata)
    sampled = txt2img("-c", path, "-v", 1, "-p", "a cat")
    assert own_text(Image.open(sampled.paths[0]), "base") == "mine"

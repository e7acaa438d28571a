"""What is refused, with which message, and that nothing is left behind."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.commands.calls import call, refused, tensors_of
from tests.commands.train.stages import LAST, Plan, Refuses, Scratch
from tests.scratch import write_yaml


@pytest.mark.parametrize("stage", ["tokenizer", "autoencoder", "diffusion"])
def test_every_stage_needs_images(stage: str, scratch: Scratch, tmp_path: Path) -> None:
    refused(call("train", stage, "--config", scratch.config), "--image-dir")
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_images_is_refused(refuses: Refuses, first: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = ("--config", write_yaml(tmp_path / "b.yaml", tmp_path / "b"))
    refuses(("tokenizer", "-i", tmp_path / "empty", *other), "holds no images with captions")
    for stage, needed in (("autoencoder", ()), ("diffusion", ("--autoencoder", first / LAST))):
        refuses((stage, "-i", tmp_path / "empty", *needed), "holds no images")


def test_the_second_stage_needs_an_autoencoder(refuses: Refuses) -> None:
    refuses(("diffusion",), "--autoencoder is needed", "python train.py autoencoder")


def test_the_second_stage_needs_captions(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    (scratch.images / "metadata.jsonl").unlink()
    refuses(("diffusion", "--autoencoder", first / LAST), "holds no images with captions", "metadata.jsonl")


def test_the_judge_needs_objects_with_two_images_and_a_tokenizer(refuses: Refuses, scratch: Scratch) -> None:
    refuses(("judge",), "no thing has two images")
    (scratch.tokenizer / "merges.txt").unlink()
    refuses(("judge",), "merges.txt is missing")


def test_an_unreadable_image_is_named_when_it_is_encoded(scratch: Scratch, first: Path) -> None:
    (scratch.images / "7.png").write_bytes(b"no image")
    refused(scratch.call("diffusion", "--autoencoder", first / LAST), "7.png is not a readable image")


def test_an_autoencoder_of_another_shape_is_refused(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    wider = scratch.with_yaml({"model.autoencoder": {"ch": 16}})
    words = ("does not hold the weights of this model", "of another shape: first_stage_model.")
    refuses(("diffusion", "--autoencoder", first / LAST), str(first / LAST), *words, scratch=wider)


def test_a_file_without_an_autoencoder_is_refused(refuses: Refuses, second: Path, tmp_path: Path) -> None:
    unet = {key: tensor for key, tensor in tensors_of(second / LAST).items() if key.startswith("model.")}
    save_file(unet, tmp_path / "unet.safetensors")
    refuses(("diffusion", "--autoencoder", tmp_path / "unet.safetensors"), "unet.safetensors", "missing: first_stage")
    refuses(("diffusion", "--autoencoder", tmp_path / "nowhere.ckpt"), "nowhere.ckpt")


def test_a_start_without_all_weights_is_refused(refuses: Refuses, first: Path) -> None:
    refuses(("diffusion", "--ckpt-path", first / LAST), str(first / LAST), "missing: model.diffusion_model.")


def test_a_tokenizer_that_is_there_is_not_replaced(scratch: Scratch) -> None:
    before = (scratch.tokenizer / "vocab.json").read_bytes()
    refused(scratch.call("tokenizer"), f"vocab.json in {scratch.tokenizer} already", str(scratch.config))
    assert (scratch.tokenizer / "vocab.json").read_bytes() == before
    (scratch.tokenizer / "vocab.json").unlink()
    refused(scratch.call("tokenizer"), "merges.txt")


def test_a_vocabulary_that_the_captions_do_not_give_leaves_no_tokenizer(scratch: Scratch) -> None:
    shutil.rmtree(scratch.tokenizer)
    large = scratch.with_yaml({"model.text_encoder": {"vocab_size": 5000}})
    refused(large.call("tokenizer"), "not 5000", "text_encoder.vocab_size")
    assert not scratch.tokenizer.exists()


def test_a_tokenizer_of_another_size_is_refused(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    large = scratch.with_yaml({"model.text_encoder": {"vocab_size": 530}})
    words = ("has 524 tokens, but text_encoder.vocab_size is 530", str(scratch.tokenizer))
    refuses(("diffusion", "--autoencoder", first / LAST), *words, scratch=large)


def test_a_missing_tokenizer_is_named(refuses: Refuses, scratch: Scratch, first: Path) -> None:
    shutil.rmtree(scratch.tokenizer)
    refuses(("diffusion", "--autoencoder", first / LAST), str(scratch.tokenizer), "vocab.json is missing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"autoencoder_training": {"size": 15}}, ("autoencoder_training.size should be a multiple of 2", "15")),
        ({"diffusion_training": {"size": 18}}, ("diffusion_training.size should be a multiple of 4", "18")),
        ({"model.autoencoder": {"num_groups": 3}}, ("model: autoencoder: ch should be a multiple of num_groups",)),
    ],
)
def test_a_yaml_that_makes_no_sense_is_refused_by_its_key(
    changes: dict[str, dict[str, Any]], words: tuple[str, ...], refuses: Refuses, scratch: Scratch, first: Path
) -> None:
    changed = scratch.with_yaml(changes)
    of_second = "diffusion_training" in changes
    arguments = ("diffusion", "--autoencoder", first / LAST) if of_second else ("autoencoder",)
    refuses(arguments, changed.config.name, *words, scratch=changed)


@pytest.mark.parametrize(
    ("stage", "flags"),
    [
        ("tokenizer", ("-s", 3)),
        ("autoencoder", ("--autoencoder", "a")),
        ("judge", ("--save-dtype", "fp32")),
        ("publish", ("-i", "a")),
    ],
)
def test_a_flag_without_effect_is_refused(stage: str, flags: tuple[object, ...], scratch: Scratch) -> None:
    name = {"-s": "--save-every", "-i": "--image-dir"}.get(str(flags[0]), str(flags[0]))
    refused(call("train", stage, *flags), f"{name} has no effect on `train.py {stage}`")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("-s", 0), "--save-every"),
        (("--precision", "fp16-mixed", "-d", "cpu"), "--precision"),
        (("--devices", "tpu"), "tpu"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(arguments: tuple[object, ...], flag: str, refuses: Refuses) -> None:
    refuses(("autoencoder", *arguments), flag)


@pytest.mark.parametrize(
    ("stage", "save_dtype", "free", "fits"),
    [
        ("autoencoder", "fp16", 12, True),
        ("autoencoder", "fp32", 12, False),
        ("diffusion", "fp16", 12, True),
        ("diffusion", "fp16", 8, False),
    ],
)
def test_a_run_that_would_fill_the_disk_fails_before_it_begins(
    save_dtype: str,
    free: int,
    fits: bool,
    stage: str,
    scratch: Scratch,
    second: Path,
    first: Path,
    refuses: Refuses,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """100 checkpoints of half precision and two resume states, of 16 bytes a trained weight, need 10 of these units."""
    weights = {
        name: one.numel() for name, one in tensors_of((first if stage == "autoencoder" else second) / LAST).items()
    }
    saved = sum(weights.values())
    fixed = sum(count for name, count in weights.items() if name.startswith("first_stage_model."))
    trained = saved - fixed if stage == "diffusion" else saved
    usage = type("Usage", (), {"free": int((100 * 2 * saved + 2 * 16 * trained) * free / 10)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    words = ("--iterations", 100, "-s", 1, "--save-dtype", save_dtype)
    if fits:
        plan(stage, *words)
    else:
        needed = ("--autoencoder", first / LAST) if stage == "diffusion" else ()
        refuses((stage, *needed, *words), "B free", "--save-every", "--output-dir")

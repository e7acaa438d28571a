"""What the stages write, and that the next command can use it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.config import read_yaml
from ldm.data.latents import measure_scale_factor, open_moments
from ldm.nn.tokenizer import load_tokenizer
from tests.commands.calls import call, info_of, pixels, tensors_of
from tests.commands.train.stages import LAST, Scratch, files_of
from tests.scratch import write_captioned, write_yaml


def test_the_tokenizer_lies_where_the_yaml_says(finished: Scratch) -> None:
    tokenizer = load_tokenizer(finished.tokenizer, 40)
    assert len(tokenizer.clip_tokenizer) == 524
    assert tokenizer.clip_tokenizer.tokenize("a red disc sks")[-3:] == ["s", "k", "s</w>"]
    assert files_of(finished.tokenizer) == {"vocab.json", "merges.txt"}


def test_a_run_is_one_directory_of_these_files(first: Path, second: Path) -> None:
    common = {"step-000003.safetensors", LAST, "samples/step-000003.png", "samples/step-000006.png"}
    common |= {".lock", "resume.ckpt", "run.yaml", "run.log"}
    tokenizer = {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    assert {name for name in files_of(first) if not name.startswith("log/")} == common
    assert {name for name in files_of(second) if not name.startswith("log/")} == common | tokenizer
    assert {path.name for path in first.parent.iterdir()} == {"autoencoder-1", "diffusion-1", "latents"}


def test_an_autoencoders_checkpoint_is_the_part_alone_and_explains_itself(first: Path, finished: Scratch) -> None:
    info, tensors = info_of(first / LAST), tensors_of(first / LAST)
    assert {key.split(".")[0] for key in tensors} == {"first_stage_model"}
    assert info.config == read_yaml(finished.config)
    assert (info.step, info.seed) == (6, 42)
    assert set(info.parts) == {"autoencoder"}
    assert info.options["stage"] == "autoencoder"
    assert info.versions.keys() >= {"ldm", "torch"}


def test_a_diffusion_checkpoint_carries_the_yaml_with_the_measured_scale_factor(
    second: Path, finished: Scratch
) -> None:
    (latents,) = (finished.runs / "latents").iterdir()
    scale = info_of(second / LAST).config["model"]["scale_factor"]
    assert scale == pytest.approx(measure_scale_factor(open_moments(latents)), abs=1e-5)
    assert scale != 1.0
    yaml = read_yaml(finished.config)
    assert info_of(second / LAST).config == {**yaml, "model": {**yaml["model"], "scale_factor": scale}}
    assert set(info_of(second / LAST).parts) == {"unet", "autoencoder", "text_encoder"}


def test_checkpoints_name_no_directory_of_this_machine(first: Path, second: Path, finished: Scratch) -> None:
    for run in (first, second):
        options = info_of(run / LAST).options
        assert str(finished.root) not in json.dumps(options)
        assert not {"typed", "resume_dir"} & options.keys()


def test_the_second_stage_keeps_the_first_ones_weights_and_the_tokenizer(
    first: Path, second: Path, finished: Scratch
) -> None:
    model = tensors_of(second / LAST)
    for key, tensor in tensors_of(first / LAST).items():
        assert torch.equal(model[key], tensor), key
    for name in ("vocab.json", "merges.txt"):
        assert (second / "tokenizer" / name).read_bytes() == (finished.tokenizer / name).read_bytes()


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_moving_average_is_what_is_saved(stage: str, finished: Scratch) -> None:
    run = finished.runs / f"{stage}-1"
    state = torch.load(run / "resume.ckpt", weights_only=True)["state_dict"]
    key = {"autoencoder": "decoder.conv_out.weight", "diffusion": "out.2.weight"}[stage]
    part = {"autoencoder": "autoencoder", "diffusion": "unet"}[stage]
    official = {"autoencoder": "first_stage_model.", "diffusion": "model.diffusion_model."}[stage] + key
    saved = tensors_of(run / LAST)[official]
    assert torch.equal(saved, state["average." + f"{part}/{key}".replace(".", "/")])
    (weight,) = (value for name, value in state.items() if name.endswith(f".{key}") and "average" not in name)
    assert not torch.equal(saved, weight)


def test_the_sheets_show_images(first: Path, second: Path) -> None:
    sheet = pixels(first / "samples" / "step-000006.png")
    assert sheet.shape == (2 * 16, 12 * 16, 3)
    assert np.abs(sheet[:16] - sheet[16:]).max() > 0
    assert pixels(second / "samples" / "step-000006.png").shape != sheet.shape


def test_the_originals_are_above_the_reconstructions(first: Path, finished: Scratch) -> None:
    from ldm.data.images import fit_image, read_image

    original = np.asarray(fit_image(read_image(finished.images / "0.png"), 16, 16)).astype(int)
    assert np.abs(pixels(first / "samples" / "step-000006.png")[:16, :16] - original).max() <= 1


def test_the_record_holds_options_yaml_and_what_it_was_trained_on(second: Path, first: Path, finished: Scratch) -> None:
    record = read_yaml(second / "run.yaml")
    assert record["command"].startswith("python train.py diffusion ")
    assert record["config"] == read_yaml(finished.config)
    assert record["data"]["pictures"] == 12
    assert set(record["files"]) == {"autoencoder"}
    assert record["options"] == {
        "stage": "diffusion",
        "image_dir": str(finished.images),
        "config": str(finished.config),
        "autoencoder": str(first / LAST),
        "ckpt_path": None,
        "iterations": None,
        "save_every": None,
        "learning_rate": None,
        "batch_size": None,
        "seed": 42,
        "output_dir": str(finished.runs),
        "devices": "auto",
        "precision": "auto",
        "compile": "auto",
        "workers": 0,
        "save_dtype": "fp32",
        "drop_resume_state": None,
        "logger": "tensorboard",
    }


def test_the_log_file_has_the_messages(first: Path, second: Path) -> None:
    assert "12 images in " in (first / "run.log").read_text()
    assert re.search(
        r"step 6: the sheet's reconstructions have a PSNR of \d+\.\d\d dB", (first / "run.log").read_text()
    )
    assert "scale factor: " in (second / "run.log").read_text()


def test_txt2img_samples_from_the_checkpoint(second: Path, tmp_path: Path) -> None:
    outcome = call("txt2img", "-c", second / LAST, "-v", 2, "-o", tmp_path)
    assert outcome.status == 0, outcome.said
    assert "a-red-disc" in " ".join(path.name for path in (tmp_path / "txt2img-1").glob("*.png"))
    assert pixels(tmp_path / "txt2img-1" / "00-a-red-disc_42.png").shape == (16, 16, 3)


def test_dreambooth_fine_tunes_the_checkpoint(second: Path, subject_dir: Path, tmp_path: Path) -> None:
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", second / LAST, "-o", tmp_path)
    outcome = call("dreambooth", *words, "--iterations", 1, "--class-img-count", 0, "--hw", 16, "--no-previews")
    assert outcome.status == 0, outcome.said
    assert (tmp_path / "can-1" / "step-00001.safetensors").exists()


def test_a_stage_with_relative_paths_prints_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_captioned(tmp_path / "pictures")
    changes = {"autoencoder_training": {"iterations": 2}}
    write_yaml(tmp_path / "a.yaml", tmp_path / "tokenizer", changes)
    outcome = call("train", "autoencoder", "-i", "pictures", "--config", "a.yaml")
    assert outcome.status == 0, outcome.said
    made = tmp_path / "runs" / "autoencoder-1" / "step-000002.safetensors"
    assert made.exists()
    assert f"python train.py diffusion --autoencoder {made} -i {tmp_path}/pictures\n" in outcome.said

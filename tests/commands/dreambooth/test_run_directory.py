"""What a run writes beside its checkpoints: record, log, report, losses and previews."""

import logging
import re
from pathlib import Path

import pytest

from ldm.commands.dreambooth import run as command
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.config import read_yaml
from ldm.errors import UserError
from tests.commands.calls import call, difference, pixels
from tests.commands.dreambooth.fine_tuning import FineTune, scalars, sha256
from tests.commands.fixtures import Trained
from tests.locks import others_may_lock
from tests.tiny import TINY_YAML


def test_a_run_is_one_directory_of_these_files(trained: Trained) -> None:
    files = {path.relative_to(trained.directory).as_posix() for path in trained.directory.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("log/")}
    assert any("tfevents" in name for name in events)
    assert files - events == {
        "step-00003.safetensors",
        "step-00006.safetensors",
        "step-00007.safetensors",
        *(f"samples/step-0000{step}.png" for step in (0, 3, 6, 7)),
        *(f"samples/pictures/step-0000{step}_00.png" for step in (0, 3, 6, 7)),
        "samples/sweep.png",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        ".lock",
        "resume.ckpt",
        "run.yaml",
        "run.log",
        "photos.png",
        "report.yaml",
    }
    assert {path.name for path in trained.root.iterdir()} == {"tin-can-1", "class-images"}


def test_the_record_holds_every_option_resolved(trained: Trained, tiny_checkpoint: Path, subject_dir: Path) -> None:
    record = read_yaml(trained.directory / "run.yaml")
    assert record["command"].startswith("python dreambooth.py -c 'Tin Can' -i ")
    assert record["base_sha256"] == sha256(tiny_checkpoint)
    assert record["config"] == TINY_YAML
    assert record["versions"]["python"]
    assert {name: value for name, value in record["options"].items() if name not in ("devices", "resume_dir")} == {
        "class_name": "Tin Can",
        "instance_img_dir": str(subject_dir),
        "check": False,
        "class_img_dir": None,
        "instance_prompts": ["a photo of sks {class}"],
        "prompt_templates": None,
        "class_prompt": "a photo of a {class}",
        "caption_dropout": 0.0,
        "strict": False,
        "iterations": 7,
        "save_every": 3,
        "learning_rate": 1e-3,
        "lr_schedule": "constant",
        "warmup_steps": 0,
        "lr_cycles": 3,
        "lr_power": 2.0,
        "ema_decay": 0.0,
        "min_snr_gamma": [0.0],
        "noise_offset": 0.0,
        "input_perturbation": 0.0,
        "timesteps": "uniform",
        "timestep_range": [0, 1000],
        "train_layers": "all",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "batch_size": 1,
        "train_text_encoder": False,
        "flip": True,
        "gradient_checkpointing": "none",
        "optimizer": "adamw",
        "train_dtype": "fp32",
        "fused_backward": False,
        "clip": "auto",
        "gradient_accumulation": 1,
        "lora": 0,
        "lora_alpha": 0.0,
        "lora_targets": "attention",
        "lora_dropout": 0.0,
        "dora": False,
        "train": "weights",
        "vectors": 1,
        "initial_words": "",
        "embedding": None,
        "text_encoder_learning_rate": 0.0,
        "memory_table": False,
        "vram": "auto",
        "seed": 42,
        "prior": "class-images",
        "l2_share": 0.01,
        "base_predictions": 1000,
        "lamb": 1.0,
        "class_img_count": 3,
        "class_sampler": "ddim",
        "class_steps": 3,
        "generation_batch_size": None,
        "hw": [32, 32],
        "sampler": "ddim",
        "ddim_steps": 3,
        "scale": 7.5,
        "ddim_eta": 0.0,
        "spacing": "original",
        "guidance_rescale": 0.0,
        "preview_prompts": ["a photo of sks {class}"],
        "no_previews": False,
        "ckpt_path": str(tiny_checkpoint),
        "config": None,
        "output_dir": str(trained.root),
        "precision": "full",
        "compile": "auto",
        "save_dtype": "fp16",
        "drop_resume_state": None,
        "logger": "tensorboard",
    }


def test_the_log_file_holds_all_messages(trained: Trained) -> None:
    """Also those from before the run had a directory."""
    text = (trained.directory / "run.log").read_text()
    assert text.index("3 photos of 'Tin Can' from") < text.index("run: ")
    assert "sampling 3 of 3 class images 'a photo of a Tin Can'" in text
    assert "7 updates made. The weights moved by" in text
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ INFO ", text)


@pytest.mark.slow
def test_two_runs_in_one_process_keep_their_logs_apart(fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called from Python, without `launch`. The second one fails."""
    logging.getLogger("ldm").setLevel(logging.NOTSET)

    def run(name: str) -> None:
        words = fine_tune.words("-c", name, "--no-previews")
        command.dreambooth(dreambooth_parser().parse_args([*map(str, words)]))

    run("can")
    monkeypatch.setattr(command, "fit", _too_large)
    with pytest.raises(UserError, match="too large"):
        run("cup")
    first, second = ((fine_tune.root / name / "run.log").read_text() for name in ("can-1", "cup-1"))
    assert "compare the checkpoints with" in first and "cup" not in first
    assert "photos of 'cup'" in second and second.rstrip().endswith("UserError: too large")
    assert others_may_lock(fine_tune.root / "can-1") and others_may_lock(fine_tune.root / "cup-1")


def _too_large(*arguments: object) -> None:
    raise UserError("too large")


def test_the_report_says_how_far_each_part_moved(trained: Trained, uninterrupted: Trained) -> None:
    report = read_yaml(trained.directory / "report.yaml")
    assert report["updates"] == 7
    moved = report["relative_movement"]
    assert {part for part, share in moved.items() if share > 0} == {part for part in moved if part.startswith("unet")}
    assert moved.keys() >= {"text encoder", "autoencoder", "unet cross-attention"}
    with_text = read_yaml(uninterrupted.directory / "report.yaml")["relative_movement"]
    assert with_text["text encoder"] > 1e-4
    assert with_text["autoencoder"] == 0.0
    assert re.search(r"text encoder +0\.0000 %", trained.outcome.said)


def test_the_end_says_how_to_compare_the_checkpoints(trained: Trained) -> None:
    assert trained.outcome.said.rstrip().endswith(f"python txt2img.py --ckpt-path {trained.directory}")


def test_tensorboard_holds_the_losses_apart_and_the_previews(trained: Trained) -> None:
    events = scalars(trained.directory)
    losses = {
        name: [event.value for event in events.Scalars(f"loss/{name}")] for name in ("instance", "class", "total")
    }
    assert [len(values) for values in losses.values()] == [7, 7, 7]
    for instance, prior, total in zip(*losses.values(), strict=True):
        assert total == pytest.approx(instance + prior, rel=1e-5)
    assert [event.step for event in events.Images("a photo of sks Tin Can")] == [0, 3, 6, 7]
    assert [event.step for event in events.Images("sweep")] == [3, 6, 7]


def test_previews_are_of_each_step_from_the_same_noise(trained: Trained) -> None:
    sheets = [pixels(trained.directory / "samples" / f"step-{step:05d}.png") for step in (3, 6, 7)]
    assert difference(sheets[0], sheets[1]) > 0
    sampled = call("txt2img", "-c", trained.step(7), "-v", 1, "-o", trained.root.parent / "out")
    assert sampled.status == 0
    image = next((trained.root.parent / "out").glob("*/00-*.png"))
    large = pixels(image).repeat(5, axis=0).repeat(5, axis=1)
    assert abs(sheets[2][-8 - 160 : -8, -8 - 160 : -8] - large).mean() < 2  # the checkpoint is of half precision


def test_progress_is_shown(trained: Trained) -> None:
    for name in ("class images", "encoding", "training"):
        assert re.search(rf"^{name}: (\d+) of \1, ", trained.outcome.said, re.MULTILINE)

"""dreambooth.py as a user types it: what a run writes, what each flag does, and that nothing is lost on the way."""

import contextlib
import csv
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth import plan as dreambooth_plan
from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.class_images import Drawing
from ldm.commands.options.drawing import txt2img_parser
from ldm.commands.options.dreambooth import dreambooth_parser
from ldm.config import read_yaml, to_yaml
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.training.dreambooth import DreamBooth
from ldm.training.trainer import FitOptions
from tests.commands.calls import (
    Outcome,
    call,
    difference,
    equal,
    info_of,
    metadata_of,
    pixels,
    refused,
    shell,
    start,
    tensors_of,
)
from tests.commands.conftest import EXACT, Trained, UNetCall, write_photos
from tests.tiny import TINY_YAML, build_tiny_model, write_tiny_checkpoint

SHORT = ("--iterations", 2, "-s", 2, "--class-img-count", 2)


@dataclass(frozen=True)
class Teach:
    """Runs dreambooth.py on the tiny model in an empty directory."""

    root: Path
    subject_dir: Path
    checkpoint: Path

    def __call__(self, *arguments: object, root: Path | None = None) -> Trained:
        """With a short run's options, unless they are named."""
        flags = {"-c": "can", "-i": self.subject_dir, "--ckpt-path": self.checkpoint, "-o": root or self.root}
        flags |= dict(zip(SHORT[::2], SHORT[1::2], strict=True))
        given = [word for flag, value in flags.items() if flag not in arguments for word in (flag, value)]
        outcome = call("dreambooth", *given, *arguments)
        assert outcome.status == 0, outcome.said
        directory = Path(re.findall(r"^run: (.*)$", outcome.said, re.MULTILINE)[0])
        return Trained(directory, outcome)


@pytest.fixture
def teach(tmp_path: Path, subject_dir: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Teach:
    monkeypatch.chdir(tmp_path)
    return Teach(tmp_path / "ckpts", subject_dir, tiny_checkpoint)


@dataclass
class Planned:
    """What a training would have been given."""

    module: DreamBooth
    options: FitOptions


@pytest.fixture
def plan(teach: Teach, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Planned]:
    """Runs dreambooth.py without training."""
    seen: list[Planned] = []

    def no_fit(module: DreamBooth, options: FitOptions, save: Any) -> None:
        seen.append(Planned(module, options))

    monkeypatch.setattr(command, "fit", no_fit)

    def planned(*arguments: object) -> Planned:
        teach(*arguments)
        return seen[-1]

    return planned


def scalars(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "log"))
    events.Reload()
    return events


# What a run writes


def test_a_run_is_one_directory_of_these_files(trained: Trained) -> None:
    files = {path.relative_to(trained.directory).as_posix() for path in trained.directory.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("log/")}
    assert any("tfevents" in name for name in events)
    assert files - events == {
        "step-00003.safetensors",
        "step-00006.safetensors",
        "step-00007.safetensors",
        "samples/step-00003.png",
        "samples/step-00006.png",
        "samples/step-00007.png",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "resume.ckpt",
        "run.yaml",
        "run.log",
        "report.yaml",
    }
    assert {path.name for path in trained.root.iterdir()} == {"tin-can-1", "class-images"}


def test_another_run_of_the_class_has_the_next_number(plan: Callable[..., Planned]) -> None:
    assert [plan().options.run_dir.name for _ in range(2)] == ["can-1", "can-2"]


def test_a_checkpoint_says_what_it_is(trained: Trained, tiny_checkpoint: Path) -> None:
    infos = [info_of(trained.step(step)) for step in (3, 6, 7)]
    assert [info.step for info in infos] == [3, 6, 7]
    for info in infos:
        assert info.config == TINY_YAML
        assert info.class_name == "Tin Can"
        assert info.instance_prompt == "a photo of sks Tin Can"
        assert info.class_prompt == "a photo of a Tin Can"
        assert info.seed == 42
        assert info.base == tiny_checkpoint.name
        assert info.base_sha256 == sha256(tiny_checkpoint)
        assert info.options["iterations"] == 7
        assert info.options["learning_rate"] == 1e-3
        assert info.versions.keys() >= {"ldm", "torch", "pytorch-lightning"}
    base = info_of(tiny_checkpoint).parts
    assert [{part for part in base if info.parts[part] == base[part]} for info in infos] == [
        set()
    ] * 3  # half precision
    assert len({info.parts["unet"] for info in infos}) == 3
    assert len({info.parts["text_encoder"] for info in infos}) == 1


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_checkpoint_holds_the_official_layout_in_half_precision(trained: Trained, tiny_checkpoint: Path) -> None:
    tensors, base = tensors_of(trained.step(3)), tensors_of(tiny_checkpoint)
    assert tensors.keys() == base.keys()
    weights = [key for key in tensors if key.startswith(("model.", "first_stage_model.", "cond_stage_model."))]
    assert {tensors[key].dtype for key in weights if "position_ids" not in key} == {torch.float16}


def test_save_dtype_is_the_weights_type(uninterrupted: Trained, stopped_once: Path) -> None:
    for checkpoint, dtype in (
        (uninterrupted.step(3), torch.float32),
        (stopped_once / "step-00002.safetensors", torch.bfloat16),
    ):
        tensors = tensors_of(checkpoint)
        assert {tensor.dtype for key, tensor in tensors.items() if key.startswith("model.")} == {dtype}


def test_files_are_numbered_by_optimizer_updates(trained: Trained) -> None:
    state = torch.load(trained.directory / "resume.ckpt", weights_only=True)
    assert state["global_step"] == 7
    assert {int(one["step"]) for one in state["optimizer_states"][0]["state"].values()} == {7}


def test_frozen_parts_are_the_bases(trained: Trained, tiny_checkpoint: Path) -> None:
    base = tensors_of(tiny_checkpoint)
    for key, tensor in tensors_of(trained.step(7)).items():
        if key.startswith(("first_stage_model.", "cond_stage_model.")):
            assert torch.equal(tensor, base[key].to(tensor.dtype)), key
    key = "model.diffusion_model.out.2.weight"
    steps = [tensors_of(trained.step(step))[key] for step in (3, 6, 7)]
    assert not torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[1], steps[2])


def test_the_record_holds_every_option_resolved(trained: Trained, tiny_checkpoint: Path, subject_dir: Path) -> None:
    record = read_yaml(trained.directory / "run.yaml")
    assert record["command"].startswith("python dreambooth.py -c 'Tin Can' -i ")
    assert record["base_sha256"] == sha256(tiny_checkpoint)
    assert record["config"] == TINY_YAML
    assert record["versions"]["python"]
    assert {name: value for name, value in record["options"].items() if name not in ("devices", "resume_dir")} == {
        "class_name": "Tin Can",
        "instance_img_dir": str(subject_dir),
        "iterations": 7,
        "save_every": 3,
        "learning_rate": 1e-3,
        "lr_schedule": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "batch_size": 1,
        "train_text_encoder": False,
        "flip": True,
        "gradient_checkpointing": False,
        "seed": 42,
        "lamb": 1.0,
        "class_img_count": 3,
        "generation_batch_size": None,
        "hw": [32, 32],
        "sampler": "ddim",
        "ddim_steps": 3,
        "scale": 7.5,
        "ddim_eta": 0.0,
        "preview_prompts": ["a photo of sks {class}"],
        "no_previews": False,
        "ckpt_path": str(tiny_checkpoint),
        "config": None,
        "output_dir": str(trained.root),
        "precision": "auto",
        "save_dtype": "fp16",
        "logger": "tensorboard",
    }


def test_the_log_file_holds_what_was_said(trained: Trained) -> None:
    text = (trained.directory / "run.log").read_text()
    assert "drawing 3 of 3 class pictures 'a photo of a Tin Can'" in text
    assert "7 updates made. The weights moved by" in text
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ INFO ", text)


def test_two_runs_in_one_process_keep_their_logs_apart(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called from Python, without the frame that a terminal has around it."""
    log = logging.getLogger("ldm")
    handlers = list(log.handlers)
    try:
        for name in ("can", "cup"):
            words = ("-c", name, "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root, *SHORT)
            command.dreambooth(dreambooth_parser().parse_args([*map(str, words), "--no-previews"]))
    finally:
        for handler in [handler for handler in log.handlers if handler not in handlers]:
            log.removeHandler(handler)
            handler.close()
    assert "cup" not in (teach.root / "can-1" / "run.log").read_text()


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
    assert [event.step for event in events.Images("a photo of sks Tin Can")] == [3, 6, 7]


def test_previews_show_what_each_step_has_learned_from_the_same_noise(trained: Trained) -> None:
    sheets = [pixels(trained.directory / "samples" / f"step-{step:05d}.png") for step in (3, 6, 7)]
    assert difference(sheets[0], sheets[1]) > 0
    drawn = call("txt2img", "-c", trained.step(7), "-v", 1, "-o", trained.root.parent / "out")
    assert drawn.status == 0
    picture = next((trained.root.parent / "out").glob("*/00-*.png"))
    large = pixels(picture).repeat(5, axis=0).repeat(5, axis=1)
    assert abs(sheets[2][-8 - 160 : -8, -8 - 160 : -8] - large).mean() < 2  # the checkpoint is of half precision


def test_progress_is_shown(trained: Trained) -> None:
    for name in ("class pictures: 100%", "encoding: 100%", "training: 100%"):
        assert name in trained.outcome.said


# Flags


FLAGS: list[tuple[tuple[object, ...], str, object]] = [
    (("--iterations", 9), "iterations", 9),
    (("-s", 5), "save_every", 5),
    (("--learning-rate", "3e-6"), "learning_rate", 3e-6),
    (("--lr-schedule", "cosine"), "lr_schedule", "cosine"),
    (("--warmup-steps", 3), "warmup_steps", 3),
    (("--weight-decay", 0), "weight_decay", 0.0),
    (("--max-grad-norm", 0.5), "max_grad_norm", 0.5),
    (("--batch-size", 4), "batch_size", 4),
    (("-l", 1.5), "prior_loss_weight", 1.5),
    (("-t",), "train_text_encoder", True),
    (("--no-flip",), "flip", False),
    (("--gradient-checkpointing",), "gradient_checkpointing", True),
    (("--class-img-count", 1), "class_img_count", 1),
]
"""Flags, what they set, and to what; none of it is the tiny model's default."""


def test_flags_reach_the_training(plan: Callable[..., Planned]) -> None:
    config = plan(*(word for words, _, _ in FLAGS for word in words)).module.config
    assert {name: getattr(config, name) for _, name, _ in FLAGS} == {name: value for _, name, value in FLAGS}


def test_without_flags_the_training_is_the_models_default(plan: Callable[..., Planned]) -> None:
    config = plan().module.config
    assert all(getattr(config, name) != value for _, name, value in FLAGS)
    assert config.learning_rate == 1e-3
    assert plan("--no-train-text-encoder").module.config.train_text_encoder is False


def test_defaults_are_the_models(plan: Callable[..., Planned], tmp_path: Path) -> None:
    own = {
        "iterations": 11,
        "batch_size": 2,
        "flip": False,
        "class_img_count": 1,
        "learning_rate": 0.5,
        "warmup_steps": 4,
    }
    base = write_tiny_checkpoint(tmp_path / "base", config={**TINY_YAML, "dreambooth": own})
    outcome = call("dreambooth", "-c", "can", "-i", write_photos(tmp_path / "can"), "--ckpt-path", base)
    assert outcome.status == 0, outcome.said
    options = read_yaml(tmp_path / "ckpts" / "can-1" / "run.yaml")["options"]
    assert {name: options[name] for name in own} == own


def test_config_goes_before_the_weights_own(plan: Callable[..., Planned], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(to_yaml({**TINY_YAML, "dreambooth": {"learning_rate": 0.25}}))
    assert plan("--config", tmp_path / "my.yaml").module.config.learning_rate == 0.25


def test_flip_doubles_what_can_be_seen_of_each_photo(plan: Callable[..., Planned]) -> None:
    both, one = (plan(flag).module._moments for flag in ("--flip", "--no-flip"))
    assert [moments.shape for moments in both if moments is not None] == [(3, 2, 8, 4, 4), (2, 2, 8, 4, 4)]
    assert [moments.shape for moments in one if moments is not None] == [(3, 1, 8, 4, 4), (2, 1, 8, 4, 4)]
    assert torch.equal(both[0][:, :1], one[0])
    assert not torch.equal(both[0][:, :1], both[0][:, 1:])


def test_hw_is_the_size_of_photos_class_pictures_and_previews(plan: Callable[..., Planned], tmp_path: Path) -> None:
    module = plan("--hw", 32, 48).module
    assert [moments.shape[-2:] for moments in module._moments if moments is not None] == [(4, 6), (4, 6)]
    picture = next((tmp_path / "ckpts" / "class-images").rglob("*.png"))
    assert Image.open(picture).size == (48, 32)


def test_hw_is_snapped_with_a_note(teach: Teach, plan: Callable[..., Planned]) -> None:
    run = teach("--hw", 33)
    assert "32 x 32 instead of 33 x 33" in run.outcome.said
    assert read_yaml(run.directory / "run.yaml")["options"]["hw"] == [32, 32]


def test_the_loggers_name_is_handed_on(plan: Callable[..., Planned]) -> None:
    assert plan().options.logger == "tensorboard"
    assert plan("--logger", "none").options.logger == "none"


def test_the_csv_logger_writes_each_loss(teach: Teach) -> None:
    run = teach("--logger", "csv", "-l", 0.5)
    with (run.directory / "log" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        expected = float(row["loss/instance"]) + 0.5 * float(row["loss/class"])
        assert float(row["loss/total"]) == pytest.approx(expected, rel=1e-5)


def test_no_previews_draws_none(stopped_once: Path) -> None:
    assert not (stopped_once / "samples").exists()
    assert not scalars(stopped_once).Tags()["images"]


def test_preview_prompts_are_drawn_with_the_class_in_them(teach: Teach) -> None:
    run = teach("--preview-prompt", "sks {class} in {snow}", "a {class}")
    assert set(scalars(run.directory).Tags()["images"]) == {"sks can in {snow}", "a can"}
    assert Image.open(run.directory / "samples" / "step-00002.png").size[0] > 2 * 160


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("full", torch.float32)])
def test_precision_is_what_training_computes_in(
    precision: str, dtype: torch.dtype, teach: Teach, unet_calls: list[UNetCall]
) -> None:
    teach("--precision", precision, "--class-img-count", 0, "--no-previews", "-d", "cpu")
    assert {(one.weight_dtype, one.conv_dtype) for one in unet_calls} == {(torch.float32, dtype)}
    assert len(unet_calls) == 2


def test_batch_size_is_photos_and_as_many_class_pictures(teach: Teach, unet_calls: list[UNetCall]) -> None:
    teach("--no-previews", "--batch-size", 3)
    assert [one.batch for one in unet_calls[-2:]] == [6, 6]


def test_the_seed_decides_everything_random(teach: Teach, stopped_once: Path) -> None:
    """The same seed's run is the same: see below."""
    other = teach(*STOPPED, "--seed", 8, "--iterations", 2)
    assert not equal(other.step(2), stopped_once / "step-00002.safetensors")
    first, second = (next(root.glob("class-images/*/00000.png")) for root in (other.root, stopped_once.parent))
    assert difference(pixels(first), pixels(second)) > 1


# Class pictures


def test_class_pictures_are_drawn_by_the_base_model_as_txt2img_would(trained: Trained, tiny_checkpoint: Path) -> None:
    directory = next((trained.root / "class-images").iterdir())
    assert directory.name.startswith("a-photo-of-a-tin-can-")
    assert sorted(path.name for path in directory.glob("*.png")) == ["00000.png", "00001.png", "00002.png"]
    out = trained.root.parent / "class-out"
    outcome = call("txt2img", "-c", tiny_checkpoint, "-p", "a photo of a Tin Can", "-v", 3, "-o", out)
    assert outcome.status == 0
    for index, seed in enumerate((42, 43, 44)):
        drawn = pixels(next(out.glob(f"*/*_{seed}.png")))
        assert difference(drawn, pixels(directory / f"{index:05d}.png")) <= 1


def test_another_run_takes_the_class_pictures_that_are_there(teach: Teach, unet_calls: list[UNetCall]) -> None:
    teach("--no-previews")
    pictures = sorted((teach.root / "class-images").rglob("*.png"))
    times = [path.stat().st_mtime_ns for path in pictures]
    unet_calls.clear()
    again = teach("--no-previews", "-i", write_photos(teach.root.parent / "others", 4), "--learning-rate", "1e-4")
    assert len(unet_calls) == 2  # the training steps
    assert [path.stat().st_mtime_ns for path in pictures] == times
    assert "2 class pictures 'a photo of a can' from" in again.outcome.said


def test_more_class_pictures_are_added_to_those_that_are_there(teach: Teach) -> None:
    teach("--no-previews")
    more = teach("--no-previews", "--class-img-count", 3)
    assert "drawing 1 of 3 class pictures" in more.outcome.said
    assert len(list((teach.root / "class-images").iterdir())) == 1


def test_another_class_base_or_setting_never_shares_class_pictures(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories: list[Path] = []

    def draw(drawing: Drawing) -> None:
        directories.append(drawing.cache.directory)
        raise UserError("enough")

    monkeypatch.setattr(command, "draw_class_images", draw)
    other_base = write_tiny_checkpoint(tmp_path / "other", model=build_tiny_model(seed=3))
    changes: list[tuple[object, ...]] = [
        (),
        ("-c", "cup"),
        ("--ckpt-path", other_base),
        ("--seed", 1),
        ("--hw", 48),
        ("--sampler", "plms"),
        ("--ddim-steps", 4),
        ("--scale", 2.0),
        ("--ddim-eta", 0.5),
        ("--learning-rate", "1e-5"),  # of no account to them
    ]
    for change in changes:
        words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, *change)
        refused(call("dreambooth", *words), "enough")
    assert len(set(directories)) == len(changes) - 1
    assert directories[0] == directories[-1]


def test_the_batch_size_of_class_pictures_changes_no_picture(
    plan: Callable[..., Planned], tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    drawn = []
    for flag, size in (("--gb", 1), ("--generation-batch-size", 3)):
        unet_calls.clear()
        plan(flag, size, "--class-img-count", 4)
        drawn.append([pixels(path) for path in sorted((tmp_path / "ckpts" / "class-images").rglob("*.png"))])
        assert {one.batch for one in unet_calls} == ({2} if size == 1 else {6, 2})
        shutil.rmtree(tmp_path / "ckpts")
    assert all(difference(one, other) <= 1 for one, other in zip(*drawn, strict=True))


@pytest.mark.parametrize(
    ("flag", "value", "passes"), [("--ddim-steps", 5, 5), ("--sampler", "plms", 4), ("--scale", 1, 3)]
)
def test_class_pictures_are_sampled_as_asked(
    flag: str, value: object, passes: int, plan: Callable[..., Planned], unet_calls: list[UNetCall]
) -> None:
    plan(flag, value)
    assert len(unet_calls) == passes
    assert unet_calls[0].batch == (2 if flag == "--scale" else 4)


@pytest.mark.parametrize("arguments", [("--class-img-count", 0), ("-l", 0)])
def test_without_prior_preservation_no_class_picture_is_drawn_or_trained_on(
    arguments: tuple[object, ...], teach: Teach, unet_calls: list[UNetCall]
) -> None:
    run = teach(*arguments, "--no-previews")
    assert not (teach.root / "class-images").exists()
    assert [one.batch for one in unet_calls] == [1, 1]
    assert "loss/class" not in scalars(run.directory).Tags()["scalars"]


# Going wrong


def test_a_text_encoder_without_gradient_stops_the_run_before_anything_is_saved(
    teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = DreamBooth._encode_prompts
    monkeypatch.setattr(DreamBooth, "_encode_prompts", lambda self: encode(self).detach())
    words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root, *SHORT)
    refused(call("dreambooth", *words, "-t"), "the text encoder should train but gets no gradient")
    assert not list(teach.root.rglob("*.safetensors"))
    assert not list(teach.root.rglob("resume.ckpt"))


def test_a_loss_that_is_not_finite_stops_the_run(teach: Teach, monkeypatch: pytest.MonkeyPatch) -> None:
    step = DreamBooth.training_step
    monkeypatch.setattr(
        DreamBooth,
        "training_step",
        lambda self, batch, index: step(self, batch, index) * (torch.nan if self.global_step == 3 else 1.0),
    )
    words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root)
    outcome = call("dreambooth", *words, "--iterations", 6, "-s", 2, "--class-img-count", 0, "--no-previews")
    refused(outcome, "not finite from update 4 on", "the weights of the unet are broken", "--learning-rate")
    assert [path.name for path in sorted(teach.root.rglob("*.safetensors"))] == ["step-00002.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-i", "nowhere"), ["no directory nowhere"]),
        (("--ckpt-path", "nowhere.ckpt"), ["no checkpoint nowhere.ckpt"]),
        (("--ckpt-path", "."), ["--ckpt-path", "directory"]),
        (("-d", "gpu"), ["'gpu' is no device"]),
        (("-d", "cuda:99"), ["no CUDA device 99"]),
        (("--config", "nowhere.yaml"), ["no config file nowhere.yaml"]),
        (("-r", "nowhere"), ["nowhere is no run"]),
        (("-r", "."), [". is no run", "run.yaml"]),
        (("--precision", "fp16-mixed", "-d", "cpu"), ["--precision fp16-mixed needs a CUDA device"]),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(
    arguments: tuple[object, ...], words: list[str], teach: Teach, tmp_path: Path
) -> None:
    flags = {"-c": "can", "-i": teach.subject_dir, "--ckpt-path": teach.checkpoint}
    given = [word for flag, value in flags.items() if flag not in arguments for word in (flag, value)]
    refused(call("dreambooth", *given, *arguments), *words)
    assert not (tmp_path / "ckpts").exists()


def test_a_truncated_base_is_named(teach: Teach, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(teach.checkpoint.read_bytes()[:100_000])
    refused(call("dreambooth", "-c", "can", "-i", teach.subject_dir, "--ckpt-path", cut), str(cut), "cut off")


def test_photos_that_can_not_be_read_are_each_named_once_and_left_out(teach: Teach, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (photos / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (photos / "notes.txt").write_text("my can")
    run = teach("-i", photos, "--no-previews")
    assert "3 photos of 'can'" in run.outcome.said
    assert len(re.findall("left out.*broken.jpg", run.outcome.said)) == 1
    assert "notes.txt" not in run.outcome.said


@pytest.mark.parametrize("content", [{}, {"notes.txt": b"none"}, {"broken.jpg": b"no picture"}])
def test_a_directory_without_photos_is_named(content: dict[str, bytes], teach: Teach, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, data in content.items():
        (tmp_path / "photos" / name).write_bytes(data)
    outcome = call("dreambooth", "-c", "can", "-i", tmp_path / "photos", "--ckpt-path", teach.checkpoint)
    refused(outcome, f"{tmp_path / 'photos'} holds no readable image")


@pytest.mark.parametrize(("save_dtype", "free", "fits"), [("fp16", 12, True), ("fp16", 8, False), ("fp32", 12, False)])
def test_a_run_that_would_fill_the_disk_fails_before_it_begins(
    save_dtype: str,
    free: int,
    fits: bool,
    teach: Teach,
    plan: Callable[..., Planned],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """100 checkpoints of half precision and two resume states would need 10 of these units of space."""
    size = sum(tensor.numel() for tensor in read_checkpoint(teach.checkpoint).tensors.values())
    usage = type("Usage", (), {"free": int((100 * 2 + 24) * size * free / 10)})
    monkeypatch.setattr(dreambooth_plan.shutil, "disk_usage", lambda path: usage)
    words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root)
    outcome = call(
        "dreambooth", *words, "--iterations", 100, "-s", 1, "--save-dtype", save_dtype, "--class-img-count", 0
    )
    if fits:
        assert outcome.status == 0, outcome.said
    else:
        refused(outcome, "GB free", "--save-every", "--output-dir")
        assert not teach.root.exists()


# Continuing a run


def interrupted(teach: Teach, monkeypatch: pytest.MonkeyPatch, at: int, *arguments: object) -> Path:
    """A run whose disk is full at the save of this step."""
    save = command.save_checkpoint

    def full(path: Path, *args: Any) -> None:
        if path.name == f"step-{at:05d}.safetensors":
            raise UserError("the disk is full")
        save(path, *args)

    words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root)
    with monkeypatch.context() as patch:
        patch.setattr(command, "save_checkpoint", full)
        refused(call("dreambooth", *words, *arguments), "the disk is full")
    return teach.root / "can-1"


STOPPED = ("--iterations", 4, "-s", 2, "--class-img-count", 2, "--no-previews", "--seed", 7, "--save-dtype", "bf16")


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path) -> Path:
    """A run that stopped after its second update of four. It is shared: don't write to it."""
    teach = Teach(tmp_path_factory.mktemp("stopped") / "ckpts", subject_dir, tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        return interrupted(teach, patch, 4, *STOPPED)


@pytest.fixture
def stopped(stopped_once: Path, teach: Teach) -> Path:
    """A copy of that run and its class pictures."""
    return copied(stopped_once, teach.root)


def copied(directory: Path, root: Path) -> Path:
    """Copies a run with its class pictures, and makes it one of the new place."""
    shutil.copytree(directory.parent, root)
    record = root / directory.name / "run.yaml"
    record.write_text(record.read_text().replace(str(directory.parent), str(root)))
    return root / directory.name


def test_a_run_is_continued_with_its_own_options(stopped: Path, teach: Teach, unet_calls: list[UNetCall]) -> None:
    outcome = call("dreambooth", "-r", stopped)
    assert outcome.status == 0, outcome.said
    assert len(unet_calls) == 2  # the steps that were missing, no class picture
    whole = teach(*STOPPED, root=teach.root.parent / "whole")
    assert equal(whole.step(4), stopped / "step-00004.safetensors")
    assert [path.name for path in teach.root.iterdir() if path.name.startswith("can")] == ["can-1"]
    before, after = (info_of(stopped / f"step-0000{step}.safetensors").options for step in (2, 4))
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"resume_dir", "output_dir"}  # the run was copied
    text = (stopped / "run.log").read_text()
    assert "drawing 2 of 2 class pictures" in text
    assert "4 updates made" in text


def test_a_run_is_continued_from_any_directory(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("dreambooth", "-r", stopped).status == 0
    assert (stopped / "step-00004.safetensors").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_repeating_the_runs_own_flags_is_no_change(stopped: Path, teach: Teach, tmp_path: Path) -> None:
    """Also if a path is written another way, or a size with one number."""
    relative = teach.root.relative_to(tmp_path)
    photos = Path(*[".."] * (len(tmp_path.parts) - 1), *teach.subject_dir.parts[1:])
    outcome = call("dreambooth", "-r", stopped, "-c", "can", "-i", photos, "-o", relative, "--hw", 32, *STOPPED)
    assert outcome.status == 0, outcome.said


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--class-name", "cup"),
        ("--learning-rate", "1e-2"),
        ("--seed", 8),
        ("--seed", 42),  # what it would be without the flag
        ("--batch-size", 2),
        ("--precision", "bf16-mixed"),
        ("--class-img-count", 3),
        ("--train-text-encoder", None),
        ("--no-flip", None),
        ("--save-dtype", "fp32"),
        ("--save-dtype", "fp16"),
        ("--ddim-steps", 5),
    ],
)
def test_a_changed_flag_is_named_and_refused(flag: str, value: object, stopped: Path) -> None:
    outcome = call("dreambooth", "-r", stopped, flag, *([] if value is None else [value]))
    refused(outcome, flag.replace("--no-", "--"), "resumed run")
    assert not (stopped / "step-00004.safetensors").exists()


def test_the_length_of_a_run_may_change(stopped: Path) -> None:
    outcome = call("dreambooth", "-r", stopped, "--iterations", 6, "-s", 3, "--logger", "none")
    assert outcome.status == 0, outcome.said
    steps = sorted(path.name for path in stopped.glob("*.safetensors"))
    assert steps == [f"step-0000{step}.safetensors" for step in (2, 3, 6)]


def test_a_changed_length_is_remembered_by_the_next_resume(stopped: Path) -> None:
    assert call("dreambooth", "-r", stopped, "--iterations", 5, "-s", 5, "--logger", "none").status == 0
    assert call("dreambooth", "-r", stopped).status == 0
    assert read_yaml(stopped / "run.yaml")["options"]["iterations"] == 5


def test_a_length_that_is_already_passed_is_refused(stopped: Path) -> None:
    refused(call("dreambooth", "-r", stopped, "--iterations", 1), "--iterations 1", "2 updates")


def test_other_photos_than_the_runs_own_are_refused(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(teach.subject_dir, photos)
    directory = interrupted(Teach(teach.root, photos, teach.checkpoint), monkeypatch, 4, *STOPPED)
    gone = sorted(photos.iterdir())[0]
    gone.unlink()
    refused(call("dreambooth", "-r", directory), "photos", gone.name)


def test_a_checkpoint_names_no_directory_of_this_machine(trained: Trained) -> None:
    options = read_checkpoint(trained.directory / "step-00003.safetensors").metadata["ldm.options"]
    assert str(trained.directory.parents[1]) not in options


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("sampling", {"sampler": "euler"}, "sampler should be one of"),
        ("sampling", {"num_steps": 2000}, "num_steps"),
        ("sampling", {"batch_size": 0}, "batch_size"),
        ("dreambooth", {"lr_schedule": "poly"}, "lr_schedule should be one of"),
        ("dreambooth", {"save_every": 0}, "save_every"),
    ],
)
def test_a_value_of_the_yaml_that_makes_no_sense_is_named(
    section: str, values: dict[str, Any], words: str, teach: Teach, tmp_path: Path
) -> None:
    content = {**TINY_YAML, section: {**TINY_YAML[section], **values}}
    odd = tmp_path / "odd.yaml"
    odd.write_text(to_yaml(content))
    outcome = call(
        "dreambooth",
        "-c",
        "can",
        "-i",
        teach.subject_dir,
        "--ckpt-path",
        teach.checkpoint,
        "--config",
        tmp_path / "odd.yaml",
    )
    refused(outcome, "odd.yaml", words)


def test_another_base_under_the_same_name_is_refused(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_tiny_checkpoint(tmp_path / "base")
    mine = Teach(teach.root, teach.subject_dir, base)
    directory = interrupted(mine, monkeypatch, 4, *STOPPED)
    write_tiny_checkpoint(tmp_path / "base", model=build_tiny_model(seed=3))
    refused(call("dreambooth", "-r", directory), str(base), "not the file that this run began with")


def test_a_base_that_is_gone_is_named(teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_tiny_checkpoint(tmp_path / "base")
    directory = interrupted(Teach(teach.root, teach.subject_dir, base), monkeypatch, 4, *STOPPED)
    base.unlink()
    refused(call("dreambooth", "-r", directory), f"no checkpoint {base}")


def test_a_directory_of_another_command_is_no_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert call("txt2img", "-c", tiny_checkpoint, "-v", 1, "-o", tmp_path).status == 0
    refused(call("dreambooth", "-r", tmp_path / "txt2img-1"), "txt2img-1", "no run of dreambooth.py")


def test_a_damaged_record_is_named(stopped: Path) -> None:
    (stopped / "run.yaml").write_text("options: {")
    refused(call("dreambooth", "-r", stopped), str(stopped / "run.yaml"))


def test_a_damaged_resume_state_is_named(stopped: Path) -> None:
    state = stopped / "resume.ckpt"
    state.write_bytes(state.read_bytes()[:5000])
    refused(call("dreambooth", "-r", stopped), "resume.ckpt")


def test_a_finished_run_stays_as_it_is(trained: Trained, teach: Teach) -> None:
    directory = copied(trained.directory, teach.root)
    before = {path.name: path.read_bytes() for path in directory.glob("step-*")}
    outcome = call("dreambooth", "-r", directory)
    assert outcome.status == 0, outcome.said
    assert {path.name: path.read_bytes() for path in directory.glob("step-*")} == before


def test_class_pictures_that_are_gone_are_drawn_again_the_same(stopped: Path, teach: Teach) -> None:
    one = sorted((teach.root / "class-images").rglob("*.png"))[1]
    before = pixels(one)
    one.unlink()
    outcome = call("dreambooth", "-r", stopped)
    assert "drawing 1 of 2 class pictures" in outcome.said
    assert difference(pixels(one), before) <= 1


# Interrupted processes


def wait_for(path: Path, process: Any, seconds: float = 120.0) -> None:
    """Returns as soon as the file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"{path.name} did not come: {process.communicate()[0]}")
        time.sleep(0.002)


@pytest.fixture
def exact_words(tmp_path: Path, subject_dir: Path, tiny_checkpoint: Path, uninterrupted: Trained) -> tuple[object, ...]:
    """The command line of the uninterrupted run, in a directory that has its class pictures already."""
    shutil.copytree(uninterrupted.root / "class-images", tmp_path / "class-images")
    return ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, *EXACT)


def assert_equal_runs(one: Path, other: Path) -> None:
    """Whether both runs hold the same checkpoints, bit for bit, and the same previews."""
    steps = sorted(path.name for path in one.glob("step-*.safetensors"))
    assert steps == [f"step-{step:05d}.safetensors" for step in (3, 6, 9, 12)]
    assert sorted(path.name for path in other.glob("step-*.safetensors")) == steps
    for name in steps:
        assert equal(one / name, other / name), name
        picture = Path("samples") / f"{Path(name).stem}.png"
        assert difference(pixels(one / picture), pixels(other / picture)) == 0


def test_a_killed_run_continues_to_bit_identical_weights(
    exact_words: tuple[object, ...], uninterrupted: Trained, tmp_path: Path
) -> None:
    process = start("dreambooth", *exact_words, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00006.safetensors", process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "can-1" / "step-00012.safetensors").exists()
    outcome = call("dreambooth", "-r", tmp_path / "can-1")
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, tmp_path / "can-1")


def test_ctrl_c_stops_after_the_step_and_says_how_to_continue(
    exact_words: tuple[object, ...], uninterrupted: Trained, tmp_path: Path
) -> None:
    process = start("dreambooth", *exact_words, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00003.safetensors", process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    stopped = re.search(r"stopped after update (\d+); continue with\n  python dreambooth.py -r (.*)", said)
    assert stopped, said
    state = torch.load(tmp_path / "can-1" / "resume.ckpt", weights_only=True)
    assert state["global_step"] == int(stopped[1]) < 12
    assert not (tmp_path / "can-1" / "report.yaml").exists()
    outcome = call("dreambooth", "-r", stopped[2])
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, tmp_path / "can-1")


@pytest.mark.slow
def test_a_killed_run_is_continued_by_a_process_of_its_own(
    exact_words: tuple[object, ...], uninterrupted: Trained, tmp_path: Path
) -> None:
    """Killed twice: while the first checkpoint is awaited, and after the resumed run's first one."""
    process = start("dreambooth", *exact_words, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "log", process)
    process.kill()
    process.communicate()
    process = start("dreambooth", "-r", "can-1", cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00009.safetensors", process)
    process.kill()
    process.communicate()
    outcome = shell("dreambooth", "-r", "can-1", cwd=tmp_path)
    assert outcome.status == 0, outcome.said
    assert_equal_runs(uninterrupted.directory, tmp_path / "can-1")


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(exact_words: tuple[object, ...], tmp_path: Path) -> None:
    process = start("dreambooth", *exact_words, "--iterations", 2000, cwd=tmp_path)
    wait_for(tmp_path / "can-1" / "step-00003.safetensors", process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert "Traceback" not in said
    assert process.returncode in (0, 130), said


@pytest.mark.slow
def test_ctrl_c_while_class_pictures_are_drawn_keeps_those_that_are_done(
    subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-o", tmp_path, "--gb", 1)
    process = start("dreambooth", *words, "--class-img-count", 500, "--ddim-steps", 20, cwd=tmp_path)
    directory = tmp_path / "class-images"
    end = time.monotonic() + 120
    while len(list(directory.rglob("*.png"))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    drawn = sorted(directory.rglob("*.png"))
    assert 3 <= len(drawn) < 500
    assert {pixels(path).shape for path in drawn} == {(32, 32, 3)}
    assert not list(directory.rglob("*.partial"))


@pytest.mark.slow
def test_mistakes_in_a_process_of_its_own_leave_no_traceback(subject_dir: Path, tmp_path: Path) -> None:
    refused(shell("dreambooth", "-c", "can", "-i", subject_dir, "--ckpt-path", tmp_path, cwd=tmp_path), "--ckpt-path")


# Several devices


@pytest.fixture(scope="module")
def on_two_devices(
    tmp_path_factory: pytest.TempPathFactory, subject_dir: Path, tiny_checkpoint: Path
) -> Iterator[tuple[Path, Outcome]]:
    root = tmp_path_factory.mktemp("two")
    words = ("-c", "Tin Can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-d", "cpu,cpu")
    outcome = shell("dreambooth", *words, "--iterations", 3, "-s", 2, "--class-img-count", 3, cwd=root, timeout=600)
    yield root, outcome


@pytest.mark.slow
def test_two_devices_write_one_run(on_two_devices: tuple[Path, Outcome]) -> None:
    root, outcome = on_two_devices
    assert outcome.status == 0, outcome.said
    assert "Traceback" not in outcome.said
    assert {path.name for path in (root / "ckpts").iterdir()} == {"tin-can-1", "class-images"}
    run = root / "ckpts" / "tin-can-1"
    assert sorted(path.name for path in run.glob("step-*")) == ["step-00002.safetensors", "step-00003.safetensors"]
    assert (run / "report.yaml").exists()
    assert len(list((run / "log").glob("*tfevents*"))) == 1
    assert outcome.said.count("3 updates made") == 1
    assert torch.load(run / "resume.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.slow
def test_two_devices_draw_the_class_pictures_that_one_draws(
    on_two_devices: tuple[Path, Outcome], trained: Trained
) -> None:
    ours, theirs = (
        sorted((root / "class-images").rglob("*.png")) for root in (on_two_devices[0] / "ckpts", trained.root)
    )
    assert [path.relative_to(path.parents[1]) for path in ours] == [
        path.relative_to(path.parents[1]) for path in theirs
    ]
    assert all(difference(pixels(one), pixels(other)) <= 1 for one, other in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_two_devices_train_on_the_samples_of_both(on_two_devices: tuple[Path, Outcome], trained: Trained) -> None:
    """Their weights are the mean gradient's of two batches, so not those of one device."""
    assert not equal(on_two_devices[0] / "ckpts" / "tin-can-1" / "step-00003.safetensors", trained.step(3))


@pytest.mark.slow
def test_a_run_on_two_devices_is_continued(on_two_devices: tuple[Path, Outcome], tmp_path: Path) -> None:
    run = tmp_path / "tin-can-1"
    shutil.copytree(on_two_devices[0] / "ckpts" / "tin-can-1", run)
    outcome = shell("dreambooth", "-r", run, "--iterations", 4, cwd=tmp_path, timeout=600)
    assert outcome.status == 0, outcome.said
    assert (run / "step-00004.safetensors").exists()


@pytest.mark.slow
def test_an_error_in_one_of_two_processes_is_told_as_in_one(
    subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The base weights are broken, which shows when class pictures are drawn."""
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "base")
    base, key = tmp_path / "base" / tiny_checkpoint.name, "model.diffusion_model.out.2.bias"
    tensors = tensors_of(tiny_checkpoint)
    save_file(tensors | {key: torch.full_like(tensors[key], torch.nan)}, base, metadata=metadata_of(tiny_checkpoint))
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", base, "-d", "cpu,cpu")
    refused(shell("dreambooth", *words, "--class-img-count", 2, cwd=tmp_path), "not finite")


def stop_two_devices(
    root: Path, subject_dir: Path, tiny_checkpoint: Path, send: Callable[[subprocess.Popen[str]], None]
) -> Outcome:
    """Starts a long run on two devices, sends a signal after its first checkpoint, and waits for its end."""
    words = ("-c", "can", "-i", subject_dir, "--ckpt-path", tiny_checkpoint, "-d", "cpu,cpu", "--no-previews")
    process = start("dreambooth", *words, "--iterations", 5000, "-s", 5, "--class-img-count", 0, cwd=root, group=True)
    try:
        wait_for(root / "ckpts" / "can-1" / "step-00005.safetensors", process)
        send(process)
        said, _ = process.communicate(timeout=60)
        return Outcome(process.returncode, said)
    except subprocess.TimeoutExpired:
        return pytest.fail("the processes wait for each other")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    "send",
    [
        lambda process: os.killpg(process.pid, signal.SIGINT),
        lambda process: process.send_signal(signal.SIGTERM),
    ],
    ids=["Ctrl-C reaches both", "kill reaches one"],
)
def test_a_signal_stops_both_processes_after_the_same_step(
    send: Callable[[subprocess.Popen[str]], None], subject_dir: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = stop_two_devices(tmp_path, subject_dir, tiny_checkpoint, send)
    assert outcome.status == 0, outcome.said
    assert "Traceback" not in outcome.said
    updates = set(re.findall(r"stopped after update (\d+)", outcome.said))
    state = torch.load(tmp_path / "ckpts" / "can-1" / "resume.ckpt", weights_only=True)
    assert updates == {str(state["global_step"])}


def test_the_commands_of_the_readme_work_as_they_are_written() -> None:
    """`python dreambooth.py -c "water bottle" -i data/bottle -s 200`, then `python txt2img.py --ckpt-path ckpts/`."""
    options = dreambooth_parser().parse_args(["-c", "water bottle", "-i", "data/bottle", "-s", "200"])
    assert (options.class_name, options.instance_img_dir, options.save_every) == (
        "water bottle",
        Path("data/bottle"),
        200,
    )
    assert options.output_dir == Path("ckpts")
    assert txt2img_parser().parse_args(["--ckpt-path", "ckpts/"]).ckpt_path == options.output_dir
    assert (ROOT / "dreambooth.py").is_file()

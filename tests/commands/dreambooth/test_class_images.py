"""Class images: drawn once by the base model, shared by those runs that would draw the same."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth import class_images
from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.class_images import ClassImageJob
from ldm.config import build_config, read_yaml, to_yaml
from ldm.errors import UserError
from ldm.runtime.models import DEFAULT_CONFIG, EMBEDDED, Settings, settings_of
from ldm.training.config import DreamBoothConfig
from tests.commands.calls import call, difference, pixels, refused
from tests.commands.dreambooth.training_run import Plan, Teach, scalars
from tests.commands.fixtures import Trained, UNetCall, write_photos
from tests.tiny import build_tiny_model, write_tiny_checkpoint


def test_class_images_are_drawn_by_the_base_model_as_txt2img_would(trained: Trained, tiny_checkpoint: Path) -> None:
    directory = next((trained.root / "class-images").iterdir())
    assert directory.name.startswith("a-photo-of-a-tin-can-")
    assert sorted(path.name for path in directory.glob("*.png")) == ["00000.png", "00001.png", "00002.png"]
    out = trained.root.parent / "class-out"
    outcome = call("txt2img", "-c", tiny_checkpoint, "-p", "a photo of a Tin Can", "-v", 3, "-o", out)
    assert outcome.status == 0
    for index, seed in enumerate((42, 43, 44)):
        drawn = pixels(next(out.glob(f"*/*_{seed}.png")))
        assert difference(drawn, pixels(directory / f"{index:05d}.png")) <= 1


def test_another_run_takes_the_class_images_that_are_there(teach: Teach, unet_calls: list[UNetCall]) -> None:
    teach("--no-previews")
    images = sorted((teach.root / "class-images").rglob("*.png"))
    times = [path.stat().st_mtime_ns for path in images]
    unet_calls.clear()
    again = teach("--no-previews", "-i", write_photos(teach.root.parent / "others", 4), "--learning-rate", "1e-4")
    assert len(unet_calls) == 2  # the training steps
    assert [path.stat().st_mtime_ns for path in images] == times
    assert "2 class images 'a photo of a can' from" in again.outcome.said


def test_another_users_class_images_are_taken_though_nothing_may_be_written_there(
    teach: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach("--no-previews")
    theirs = teach.root / "class-images"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs)
    teach("--no-previews")
    words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, "-o", teach.root)
    refused(call("dreambooth", *words, "--class-img-count", 3), f"you may not write in {theirs}")
    assert not (teach.root / "can-3").exists()


def test_more_class_images_are_added_to_those_that_are_there(teach: Teach) -> None:
    teach("--no-previews")
    more = teach("--no-previews", "--class-img-count", 3)
    assert "drawing 1 of 3 class images" in more.outcome.said
    assert len(list((teach.root / "class-images").iterdir())) == 1


def test_another_class_base_or_setting_never_shares_class_images(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories: list[Path] = []

    def draw(drawing: ClassImageJob) -> None:
        directories.append(drawing.cache.directory)
        raise UserError("enough")

    monkeypatch.setattr(command, "sample_class_images", draw)
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
        ("--class-sampler", "dpm-solver"),
        ("--class-steps", 5),
        ("--learning-rate", "1e-5"),  # of no account to them
    ]
    for change in changes:
        words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, *change)
        refused(call("dreambooth", *words), "enough")
    assert len(set(directories)) == len(changes) - 1
    assert directories[0] == directories[-1]


def test_each_device_finds_out_how_many_fit(teach: Teach, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its share of the images, in the process that draws them."""
    asked: list[int] = []

    def choose(*how: Any) -> int:
        asked.append(how[-1])
        return 1

    monkeypatch.setattr(class_images, "batch_that_fits", choose)
    teach("--no-previews")
    assert asked == [2]
    teach("--no-previews", "--class-img-count", 4, "--gb", 2)
    assert asked == [2]


def test_the_batch_size_of_class_images_changes_no_image(
    plan: Plan, tmp_path: Path, unet_calls: list[UNetCall]
) -> None:
    drawn = []
    for flag, size in (("--gb", 1), ("--generation-batch-size", 3)):
        unet_calls.clear()
        plan(flag, size, "--class-img-count", 4, "--no-previews")
        drawn.append([pixels(path) for path in sorted((tmp_path / "ckpts" / "class-images").rglob("*.png"))])
        assert {one.batch for one in unet_calls} == ({2} if size == 1 else {6, 2})
        shutil.rmtree(tmp_path / "ckpts")
    assert all(difference(one, other) <= 1 for one, other in zip(*drawn, strict=True))


@pytest.mark.parametrize(
    ("flag", "value", "passes"),
    [
        ("--ddim-steps", 5, 5),
        ("--sampler", "plms", 4),
        ("--scale", 1, 3),
        ("--class-steps", 2, 2),
        ("--class-sampler", "plms", 4),
    ],
)
def test_class_images_are_sampled_as_asked(
    flag: str, value: object, passes: int, plan: Plan, unet_calls: list[UNetCall]
) -> None:
    plan(flag, value, "--no-previews")
    assert len(unet_calls) == passes
    assert unet_calls[0].batch == (2 if flag == "--scale" else 4)


@pytest.mark.parametrize(
    ("typed", "class_images", "previews"),
    [
        ((), ("ddim", 3), ("ddim", 3)),
        (("--class-sampler", "dpm-solver"), ("dpm-solver", 3), ("ddim", 3)),
        (("--class-sampler", "dpm-solver", "--sampler", "plms", "--ddim-steps", 5), ("dpm-solver", 5), ("plms", 5)),
        (("--class-steps", 4, "--sampler", "plms", "--ddim-steps", 5), ("plms", 4), ("plms", 5)),
        (("--class-sampler", "plms", "--ddim-eta", 0.5), ("plms", 3), ("ddim", 3)),
    ],
)
def test_class_images_and_previews_may_be_sampled_differently(
    typed: tuple[object, ...],
    class_images: tuple[str, int],
    previews: tuple[str, int],
    teach: Teach,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[ClassImageJob] = []

    def draw(drawing: ClassImageJob) -> None:
        drawn.append(drawing)
        raise UserError("enough")

    monkeypatch.setattr(command, "sample_class_images", draw)
    words = ("-c", "can", "-i", teach.subject_dir, "--ckpt-path", teach.checkpoint, *typed)
    refused(call("dreambooth", *words), "enough")
    sampling = drawn[0].cache.sampling
    assert (sampling.sampler, sampling.num_steps) == class_images
    assert sampling.eta == 0
    options = read_yaml(teach.root / "can-1" / "run.yaml")["options"]
    assert (options["class_sampler"], options["class_steps"]) == class_images
    assert (options["sampler"], options["ddim_steps"]) == previews


@pytest.mark.slow
def test_a_resumed_run_from_before_these_flags_keeps_its_class_images(teach: Teach) -> None:
    run = teach("--sampler", "plms", "--no-previews").directory
    record = read_yaml(run / "run.yaml")
    assert record["options"].pop("class_sampler") == "plms"
    assert record["options"].pop("class_steps") == 3
    (run / "run.yaml").write_text(to_yaml(record))
    outcome = call("dreambooth", "-r", run, "--iterations", 3)
    assert outcome.status == 0
    assert "2 class images 'a photo of a can' from" in outcome.said
    assert len(list((teach.root / "class-images").iterdir())) == 1


def test_a_model_that_says_nothing_of_class_images_draws_them_by_dpm_solver_in_20_steps() -> None:
    sd = build_config(Settings, read_yaml(DEFAULT_CONFIG), "sd").dreambooth
    tiny = settings_of(read_checkpoint(EMBEDDED), None)[1].dreambooth
    for config in (DreamBoothConfig(), sd, tiny):
        assert (config.class_sampler, config.class_steps) == ("dpm-solver", 20)


@pytest.mark.parametrize(("name", "value"), [("class_sampler", "euler-maruyama"), ("class_steps", 0)])
def test_a_yaml_with_a_wrong_sampler_of_class_images_is_refused(name: str, value: object) -> None:
    with pytest.raises(UserError, match=name):
        build_config(DreamBoothConfig, {name: value}, "here")


@pytest.mark.parametrize("arguments", [("--class-img-count", 0), ("-l", 0)])
def test_without_prior_preservation_no_class_image_is_drawn_or_trained_on(
    arguments: tuple[object, ...], teach: Teach, unet_calls: list[UNetCall]
) -> None:
    run = teach(*arguments, "--no-previews")
    assert not (teach.root / "class-images").exists()
    assert [one.batch for one in unet_calls] == [1, 1]
    assert "loss/class" not in scalars(run.directory).Tags()["scalars"]

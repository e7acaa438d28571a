"""Class pictures: drawn once by the base model, shared by those runs that would draw the same."""

import shutil
from pathlib import Path

import pytest

from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.class_images import Drawing
from ldm.errors import UserError
from tests.commands.calls import call, difference, pixels, refused
from tests.commands.conftest import Trained, UNetCall, write_photos
from tests.commands.dreambooth.teaching import Plan, Teach, scalars
from tests.tiny import build_tiny_model, write_tiny_checkpoint


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
    ("flag", "value", "passes"), [("--ddim-steps", 5, 5), ("--sampler", "plms", 4), ("--scale", 1, 3)]
)
def test_class_pictures_are_sampled_as_asked(
    flag: str, value: object, passes: int, plan: Plan, unet_calls: list[UNetCall]
) -> None:
    plan(flag, value, "--no-previews")
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

"""`--check`, and what every run checks of its photos in its first seconds."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ldm.commands.dreambooth import preflight
from ldm.commands.dreambooth import run as command
from ldm.commands.dreambooth.building import build_to_measure
from ldm.commands.dreambooth.plan import RunPlan
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.runtime.models import EMBEDDED
from ldm.training.dreambooth import DreamBooth
from tests.commands.calls import call, refused
from tests.commands.dreambooth.fine_tuning import FineTune
from tests.data.test_verdicts import photo


def good_photos(directory: Path, count: int = 3) -> Path:
    directory.mkdir()
    for seed in range(count):
        photo(seed).save(directory / f"{seed}.png")
    return directory


@pytest.mark.slow
def test_check_prints_everything_and_trains_nothing(fine_tune: FineTune, tmp_path: Path) -> None:
    photos = good_photos(tmp_path / "photos")
    photo(9, 12, 12).save(photos / "tiny.png")
    outcome = fine_tune.call("-i", photos, "--check", "--iterations", 1000)
    assert outcome.status == 0, outcome.said
    assert f"photos in {photos}, cropped to 32 x 32\n  file      pixels   verdict\n" in outcome.said
    assert "  0.png     80 x 80  good\n" in outcome.said
    assert "  tiny.png  12 x 12  WARNING: enlarged 2.67 times\n" in outcome.said
    assert "3 of 4 photos good enough" in outcome.said
    assert "  a photo of sks can: a</w> p h o t o</w> o f</w> s k s</w> c a n</w>\n" in outcome.said
    for words in ("memory: ", "disk: up to ", " for 1000 updates of ", "tiny.png: take a larger photo"):
        assert words in outcome.said
    assert [path.name for path in fine_tune.root.iterdir()] == ["can-photos.png"]
    assert str(fine_tune.root / "can-photos.png") in outcome.said
    with Image.open(fine_tune.root / "can-photos.png") as sheet:
        cell = sheet.convert("RGB").crop((8, 8, 232, 232)).resize((32, 32), Image.Resampling.BOX)
    assert cell.tobytes() == photo(0).resize((32, 32), Image.Resampling.LANCZOS).tobytes()


def test_errors_end_the_check_and_strict_counts_warnings_too(
    fine_tune: FineTune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "cost_lines", lambda plan: [])
    photos = good_photos(tmp_path / "photos")
    photo(9, 12, 12).save(photos / "tiny.png")
    refused(fine_tune.call("-i", photos, "--check", "--strict"), "the check found 1 warning: see above")
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    refused(
        fine_tune.call("-i", photos, "--check"), "cut.jpg   -        ERROR: is not a readable", "found 1 error: see"
    )
    refused(fine_tune.call("-i", photos, "--strict"), "found 1 error and 1 warning", "leave out --strict")
    assert not (fine_tune.root / "can-1").exists()


def test_a_run_warns_once_of_poor_photos_and_has_their_crops(
    fine_tune: FineTune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = good_photos(tmp_path / "photos")
    photo(1).save(photos / "twin.jpg")

    def stop(*arguments: object) -> None:
        raise UserError("enough")

    monkeypatch.setattr(command, "sample_class_images", stop)
    refused(fine_tune.call("-i", photos), "enough")
    said = (fine_tune.root / "can-1" / "run.log").read_text()
    assert "twin.jpg: nearly the same as 1.png" in said
    assert "3 of 4 photos good enough; --check prints more" in said
    assert (fine_tune.root / "can-1" / "photos.png").is_file()


def test_the_tiny_model_says_that_real_photos_are_outside_its_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "cost_lines", lambda plan: [])
    photos = good_photos(tmp_path / "photos", 4)
    common = ("-c", "mug", "--ckpt-path", EMBEDDED, "-o", tmp_path / "out", "--strict", "--check")
    refused(call("dreambooth", "-i", photos, *common), "does not look like a rendered world", "another base model")
    assert call("dreambooth", "-i", ROOT / "data" / "bottle", *common).status == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--gradient-accumulation", 2, "--prompt-templates", "dreambooth"),
        pytest.param(
            ("--lora", 2, "--precision", "bf16-mixed", "-t", "--text-encoder-learning-rate", 1e-5),
            marks=pytest.mark.slow,
        ),
        pytest.param(("--fused-backward", "--optimizer", "adafactor"), marks=pytest.mark.slow),
    ],
)
def test_the_check_measures_the_updates_of_the_run(
    flags: tuple[object, ...], fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[DreamBooth] = []

    def watched(plan: RunPlan) -> DreamBooth:
        measured.append(build_to_measure(plan))
        return measured[-1]

    monkeypatch.setattr("ldm.commands.dreambooth.cost.build_to_measure", watched)
    monkeypatch.setattr("ldm.commands.dreambooth.cost.predict", lambda *arguments: SimpleNamespace(peak=0))
    outcome = fine_tune.call("--check", "--class-img-count", 2, *flags)
    assert outcome.status == 0, outcome.said
    assert " for 2 updates of " in outcome.said
    (module,) = measured
    assert (module._in_backward is not None) == ("--fused-backward" in flags)
    frozen = {weight.dtype for weight in module.ldm.unet.parameters() if not weight.requires_grad}
    assert (torch.bfloat16 in frozen) == ("--lora" in flags)
    assert [path.name for path in fine_tune.root.iterdir()] == ["can-photos.png"]

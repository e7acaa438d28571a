"""The benchmark of inpainting a subject: its renders and masks, and its figures on known images."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.inpainting import Figures, main, renders, report, unchanged_outside
from benchmarks.tools.intervals import Count, Mean
from ldm.data.images import to_image
from ldm.toyworld import object_coverage


def test_the_mask_covers_the_object_of_each_render() -> None:
    scenes, images, masks = renders(6, 32)
    assert images.shape == (6, 3, 32, 32)
    assert all(scene.thing.class_name != "bottle" for scene in scenes)
    covered = object_coverage(scenes, 32) > 0.5
    assert (masks | ~covered).all()
    assert not masks.all()


def test_one_changed_pixel_outside_the_mask_counts() -> None:
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1, 1] = True
    painted = torch.zeros(2, 3, 4, 4)
    originals = [to_image(image) for image in painted]
    painted[:, :, 1, 1] = 1
    assert unchanged_outside(painted, originals, mask) == Count(2, 2)
    painted[0, 0, 2, 2] = 1
    assert unchanged_outside(painted, originals, mask) == Count(1, 2)


def test_what_falls_short_misses_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {
        name: Figures(Mean(value, 0.01, 9), Count(9, 9), Count(8, 9))
        for name, value in {"painted into a render": 0.4, "sampled plainly": 0.5}.items()
    }
    targets = report(figures, Count(9, 9))
    assert [target.met for target in targets] == [False, True]
    assert "0.400" in capsys.readouterr().out


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    """With the embedded model itself, which knows no sks."""
    embedded = "ldm/assets/tiny.safetensors"
    assert main(["--ckpt-path", embedded, "--count", "2", "--sheet", str(tmp_path / "sheet.jpg")]) == 0
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > 4 * 64

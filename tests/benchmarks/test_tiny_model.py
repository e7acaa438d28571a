"""The benchmark of the embedded tiny model, with a tiny judge and random weights."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.tiny_model import (
    caption_fit,
    captioned_sheet,
    held_out,
    look_alikes,
    main,
    prompt_scenes,
    reconstruction_psnr,
    variety,
)
from ldm.toyworld import canonical_caption
from tests.judges import MeanColours, of_colours


class Embeds(MeanColours):
    """A judge that hears captions as given."""

    def __init__(self, **captions: list[float]) -> None:
        self.captions = captions

    def caption_similarity(self, images: torch.Tensor, captions: list[str]) -> torch.Tensor:
        heard = torch.tensor([self.captions[caption] for caption in captions])
        return torch.cosine_similarity(images.mean((2, 3))[:, None], heard[None], dim=-1)


def test_psnr_of_the_whole_and_of_the_objects_box() -> None:
    images, coverage = torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32)
    decoded = images.clone()
    decoded[0, :, 8:16, 4:12] = 0.2  # the box only
    coverage[0, 8, 4:12] = coverage[0, 8:16, 4] = 1.0  # an L: its box is all that was changed
    coverage[0, 20, 20] = 0.5  # not more than half
    decoded[1] = 0.02
    coverage[1, 3:5, 3:5] = 0.51
    whole, crop = reconstruction_psnr(decoded, images, coverage)
    assert crop[0] == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-3)
    assert whole[0] == pytest.approx(10 * math.log10(4 / (0.04 / 16)), abs=1e-3)
    assert whole[1] == pytest.approx(40.0, abs=1e-3) and crop[1] == pytest.approx(40.0, abs=1e-3)


def test_a_tenth_of_the_prompts_was_never_trained_on() -> None:
    scenes = prompt_scenes(40)
    assert [index for index, scene in enumerate(scenes) if held_out(scene)] == [9, 19, 29, 39]
    assert len({canonical_caption(scene) for scene in scenes}) > 35
    assert prompt_scenes(3) == scenes[:3]


def test_look_alikes_are_other_scenes_with_the_same_caption() -> None:
    (scene,) = prompt_scenes(1)
    others = look_alikes(scene, 2)
    assert {canonical_caption(other) for other in others} == {canonical_caption(scene)}
    assert len({scene, *others}) == 3


def test_variety_is_the_mean_distance_of_pairs() -> None:
    one, other = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    assert variety(Embeds(), of_colours(one, one)) == pytest.approx(0.0)  # type: ignore[arg-type]
    assert variety(Embeds(), of_colours(one, one, other)) == pytest.approx(2 / 3)  # type: ignore[arg-type]


def test_captions_of_the_same_words_are_not_other_captions() -> None:
    evaluator = Embeds(a=[1.0, 0.0, 0.0], b=[0.0, 1.0, 0.0])
    sampled = of_colours((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0))
    fit = caption_fit(evaluator, sampled, sampled, ["a", "a", "b"])  # type: ignore[arg-type]
    assert fit["sampled"].value == pytest.approx((1 + 1 + 0.5**0.5) / 3)
    assert fit["sampled, others' captions"].value == pytest.approx((0 + 0 + 0.5**0.5) / 3)


def test_the_sheet_has_each_image_with_its_caption_beneath() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [Image.new("RGB", (64, 64), colour) for colour in colours]
    sheet = captioned_sheet(images, ["a red one that needs more words than fit into a line", "green", "blue"], 2)
    height = (sheet.height - 8) // 2
    assert [sheet.getpixel(place) for place in ((100, 100), (300, 100), (100, 100 + height))] == colours
    beneath = sheet.crop((8, 8 + 192, 200, 8 + height)).getcolors(100000)
    assert beneath is not None and len(beneath) > 1  # there is text


@pytest.mark.slow
def test_the_whole_benchmark_runs(
    tmp_path: Path, tiny_checkpoint: Path, judge_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--ckpt-path", str(tiny_checkpoint), *judge_flags, "--prompts", "10", "--reconstructions", "3"]
    files = ["--sheet", str(tmp_path / "sheet.jpg"), "--json", str(tmp_path / "figures.json")]
    assert main([*flags, *files, "--variety", "1", "--strict"]) == 1  # random weights meet no target
    output = capsys.readouterr().out
    for words in ("PSNR", "held-out combinations (1)", "reconstructed renders", "taken for", "missed: class"):
        assert words in output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["right"]["sampled"]["class"]["total"] == 10
    assert figures["psnr"]["whole image"]["value"] < 27
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > 8 * 96
    assert main([*flags, "--variety", "0"]) == 0  # without --strict it only prints it

"""The benchmark of DreamBooth on unusual subjects, with random weights and a judge whose answers are known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import benchmarks.tiny_subjects as benchmark
from benchmarks.tiny_model import prompt_scenes
from benchmarks.tiny_subjects import BOTTLE, SUBJECTS, Images, judge_images, main, parse_subject, sheet
from benchmarks.tools.intervals import Count
from benchmarks.tools.subject_report import (
    NO_PRIOR,
    PRIOR,
    Figures,
    Result,
    Subject,
    more_leakage,
    steps_table,
    targets_of,
)
from ldm.files import ROOT
from ldm.toyworld import SETTINGS, photograph, unusual_subject
from ldm.toyworld.judge.encoder import Answer
from tests.commands.calls import call
from tests.judges import MeanColours, of_colours

RED, GREEN, YELLOW = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0)
FIGURES = Figures(
    step=600,
    similarity=0.72,
    share=90.0,
    share_elsewhere=85.0,
    settings={"snow": Count(9, 10), "night": Count(8, 10)},
    recognised=Count(20, 20),
    leakage=[0.1, 0.2],
    class_right=Count(2, 2),
    same=0.9,
    variety=0.3,
    others={"class": Count(4, 5), "all four": Count(3, 5)},
)


class ColourEvaluator(MeanColours):
    """Red things are bottles in the snow, others hats at night."""

    def name(self, images: Tensor) -> list[dict[str, Answer]]:
        bottle = {"class": "bottle", "setting": "snow", "colour": "red", "pattern": "plain"}
        hat = {"class": "hat", "setting": "night", "colour": "green", "pattern": "plain"}
        is_red = (images.mean((2, 3)) == torch.tensor(RED)).all(dim=1).tolist()
        return [{head: Answer(label, 1.0) for head, label in (bottle if red else hat).items()} for red in is_red]


def images(of_class: Tensor) -> Images:
    elsewhere = {"snow": of_colours(RED, GREEN), "night": of_colours(GREEN, GREEN)}
    return Images(of_colours(RED, RED, GREEN, GREEN), elsewhere, of_class, of_colours(GREEN))


def test_figures_by_hand() -> None:
    photos = of_colours(RED, YELLOW)  # cosine 1 / sqrt 2
    base = images(of_colours(GREEN, GREEN))
    others = prompt_scenes(1)
    found = judge_images(
        ColourEvaluator(), images(of_colours(RED, GREEN)), base, photos, BOTTLE, others, 600  # type: ignore[arg-type]
    )  # fmt: skip
    half = 0.5**0.5
    red, green = (1 + half) / 2, half / 2
    assert found.similarity == pytest.approx((red + green) / 2)
    assert found.share == pytest.approx(100 * (red + green) / 2 / half)
    assert found.share_elsewhere == pytest.approx(100 * (red + 3 * green) / 4 / half)
    assert found.settings == {"snow": Count(1, 2), "night": Count(2, 2)} and found.setting_right == Count(3, 4)
    assert found.recognised == Count(3, 8)
    assert found.leakage == pytest.approx([red, green])
    assert found.class_right == Count(1, 2)
    assert found.same == pytest.approx(0.5)
    assert found.variety == pytest.approx(1.0)


def results(*without: float) -> list[Result]:
    base = replace(FIGURES, step=0, leakage=[0.0, 0.0])
    tuned = Result(BOTTLE, PRIOR, 0.8, 95.0, 100.0, [base, FIGURES])
    forgetful = Result(BOTTLE, NO_PRIOR, 0.8, 95.0, 60.0, [base, replace(FIGURES, leakage=list(without))])
    return [tuned, forgetful] if without else [tuned]


def test_images_of_the_same_noise_are_compared_without_prior_preservation() -> None:
    more = more_leakage(results(0.5, 0.8))
    assert more is not None and more.value == pytest.approx(0.5) and more.count == 2
    assert more.half == pytest.approx(1.96 * 0.1)  # differences 0.4 and 0.6
    assert more_leakage(results()) is None


def test_targets_of_similarity_setting_and_leakage() -> None:
    assert [target.met for target in targets_of(results())] == [True, True]
    assert [target.met for target in targets_of(results(0.5, 0.8))] == [True, True, True]
    assert [target.met for target in targets_of(results(0.0, 0.3))] == [True, True, False]


def test_steps_are_compared_from_the_base_model_on() -> None:
    lines = steps_table(results(0.5, 0.8)).splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [["| -", "0"], ["| class-images", "600"], ["| none", "600"]]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_new_settings_are_in_no_photograph(subject: Subject) -> None:
    taken = {scene.setting for scene in photograph(unusual_subject(subject.seed, subject.class_name), 6, subject.seed)}
    assert len({*subject.new_settings}) == 5 and not taken & {*subject.new_settings}
    assert {"snow", "night", "sunset", "water"} < {*subject.new_settings}


def test_the_bottle_is_the_one_in_the_repository() -> None:
    taken = photograph(unusual_subject(BOTTLE.seed, "bottle"), 6, BOTTLE.seed)
    for scene, path in zip(taken, sorted((ROOT / "data" / "bottle").glob("*.png")), strict=True):
        with Image.open(path) as photo:
            assert photo.text["caption"].endswith(f"zigzag bottle {SETTINGS[scene.setting][0]}")  # type: ignore[attr-defined]


def test_other_subjects_are_photographed_as_the_documents_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[object, ...]] = []
    monkeypatch.setattr(benchmark, "timed_run", lambda *arguments: ran.append(arguments))
    assert parse_subject("teddy bear") == Subject("teddy bear", 5) and parse_subject("duck:7") == Subject("duck", 7)
    directory = benchmark.photographs_of(parse_subject("teddy bear"), tmp_path)
    assert ran == [
        ("-m", "ldm.toyworld", "--subject", "teddy bear", "--seed", 5, "--count", 6, "--out", directory)
    ]  # fmt: skip
    assert benchmark.photographs_of(BOTTLE, tmp_path) == ROOT / "data" / "bottle"


def test_the_sheet_has_a_row_for_each_checkpoint() -> None:
    rows = {"base model": images(of_colours(GREEN, RED)), "step 600": images(of_colours(RED, RED))}
    rows = {
        name: replace(one, elsewhere={s: of_colours(RED) for s in BOTTLE.new_settings}) for name, one in rows.items()
    }
    one = sheet({"base model": rows["base model"]}, of_colours(RED, YELLOW), BOTTLE)
    assert sheet(rows, of_colours(RED, YELLOW), BOTTLE).height > one.height + 100
    assert one.width > 10 * 160


@pytest.mark.slow
def test_the_whole_benchmark_runs(
    tmp_path: Path,
    tiny_checkpoint: Path,
    judge_flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the command itself, in this process."""
    commands: list[tuple[object, ...]] = []

    def run(script: str, *arguments: object) -> float:
        monkeypatch.chdir(ROOT)
        outcome = call(script.removesuffix(".py"), *arguments, "--no-previews", "--logger", "none")
        assert outcome.status == 0, outcome.said
        commands.append((script, *arguments))
        return 12.0

    monkeypatch.setattr(benchmark, "timed_run", run)
    flags = ["--ckpt-path", str(tiny_checkpoint), *judge_flags, "--subjects", "bottle", "--iterations", "1"]
    flags += ["--images", "1", "--others", "2", "--work", str(tmp_path / "work"), "--without-prior"]
    files = ["--sheets", str(tmp_path / "sheets"), "--json", str(tmp_path / "figures.json")]
    assert main([*flags, *files, "--strict"]) == 1  # random weights learn nothing in one update
    output = capsys.readouterr().out
    assert "| water bottle | class-images |" in output and "| none | 1 |" in output and "| 12 |" in output
    typed = ("dreambooth.py", "-c", "water bottle", "-i", Path("data/bottle"), "-s", 200)
    assert [command[:7] for command in commands] == [typed, typed]
    assert [command[9:11] == ("--prior", "none") for command in commands] == [False, True]
    found = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert [[step["step"] for step in result["steps"]] for result in found] == [[0, 1], [0, 1]]
    assert (tmp_path / "sheets" / "bottle-15.png").exists()
    main(flags)
    assert len(commands) == 2  # finished results are used again

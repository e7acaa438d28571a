"""Scores where there is little to score: no prompt for the subject, one prompt, one seed, one photo, none."""

from pathlib import Path

import pytest

import ldm.evaluation.clip_dino as clip_dino
from ldm.report.table import read_comparison
from tests.commands.calls import call
from tests.commands.fixtures import Trained, write_photos
from tests.evaluation.networks import write_networks
from tests.report.tables import tuned

JUDGE = ("--encoder", "toyworld-judge")
SUBJECT, CLASS = "a photo of sks {class}", "a photo of a {class}"
OF_SUBJECT = {"subject", "image", "prompt", "copy"}
OF_CLASS = {"leakage", "drift"}


def scores_of(command: str, *arguments: object) -> tuple[set[str], str]:
    """The scores of the last row, and what was recommended."""
    outcome = call(command, *arguments)
    assert outcome.status == 0, outcome.said
    comparison = read_comparison(Path("outputs") / f"{command}-1" / "comparison.json")
    assert all(cell is not None for row in comparison.rows for cell in row.cells)
    recommendation = comparison.groups[0].recommendation
    assert recommendation is not None and recommendation.verdict in outcome.said
    return set(comparison.rows[-1].scores), recommendation.verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "count", "expected", "base"),
    [
        (["a dog"], 3, {"prompt", *OF_CLASS}, False),
        ([CLASS], 1, OF_CLASS, True),
        ([SUBJECT], 1, OF_SUBJECT | OF_CLASS, True),
    ],
    ids=["another thing without base model", "the class", "the subject and one photo"],
)
def test_one_prompt_and_one_seed_are_scored(
    prompts: list[str],
    count: int,
    expected: set[str],
    base: bool,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = write_photos(tmp_path / "photos", count)
    arguments = ("-c", trained.step(6), *JUDGE, "-p", *prompts, "-v", 1, "-i", photos, *([] if base else ["--no-base"]))
    found, verdict = scores_of("evaluate", *arguments)
    assert found == expected - (set() if base else {"drift"})
    assert verdict.startswith("Nothing to recommend: no prompt is for") is (SUBJECT not in prompts)


def test_txt2img_scores_without_photos_and_without_the_subject(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load, networks = clip_dino.load_clip_dino, write_networks(tmp_path / "networks")
    monkeypatch.setattr(clip_dino, "load_clip_dino", lambda device: load(device, networks))
    checkpoint = tuned(tmp_path / "ckpts" / "mug-1", tiny_checkpoint)
    found, verdict = scores_of("txt2img", "-c", checkpoint, "-p", "a dog", "-v", 1, "--score")
    assert found == {"prompt"}
    assert verdict.startswith("Nothing to recommend")

"""Scores and a recommendation through the commands; the judge encodes the tiny model's noise."""

import shlex
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ldm.commands.sampling import batches, job, planning, run, scoring
from ldm.data import images
from ldm.evaluation.protocol import dreambooth_prompts
from ldm.evaluation.recommendation import RULE
from ldm.evaluation.results import CLASS, OTHER, SUBJECT, Recommendation
from ldm.report.comparison import ComparisonData
from ldm.report.table import read_comparison
from tests.commands.calls import Outcome, Sampled, call, refused
from tests.commands.fixtures import Trained, write_photos
from tests.report.tables import lines_of, record, tuned
from tests.tiny import write_tiny_checkpoint

JUDGE = ("--encoder", "toyworld-judge")
PROMPTS = ("-p", "a photo of sks {class}", "a photo of sks {class} at night")
SUBJECT_SCORES = {"subject", "image", "prompt", "diversity", "copy"}
CLASS_SCORES = {"leakage", "drift"}


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


Scored = tuple[ComparisonData, Outcome, Sampled]


def evaluated(*arguments: object, number: int = 1, command: str = "evaluate") -> Scored:
    outcome = call(command, *arguments)
    assert outcome.status == 0, outcome.said
    directory = Path("outputs") / f"{command}-{number}"
    return read_comparison(directory / "comparison.json"), outcome, Sampled(directory, outcome.said)


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """All checkpoints of a run and their base model, sampled and scored once. It is shared: don't write to it."""
    directory = tmp_path_factory.mktemp("scored")
    outcome = call("evaluate", "-c", trained.root, *JUDGE, *PROMPTS, "-v", 2, "-o", directory)
    assert outcome.status == 0, outcome.said
    sampled = Sampled(directory / "evaluate-1", outcome.said)
    return read_comparison(sampled.directory / "comparison.json"), outcome, sampled


def test_every_checkpoint_is_scored_and_there_is_a_recommendation(whole: Scored) -> None:
    comparison, outcome, sampled = whole
    assert [column.kind for column in comparison.columns] == [SUBJECT] * 4 + [CLASS] * 2
    assert {score.name for score in comparison.scores} >= SUBJECT_SCORES | CLASS_SCORES
    assert comparison.rule == RULE
    for row in comparison.rows:
        assert set(row.scores) == SUBJECT_SCORES | CLASS_SCORES
        for score in row.scores.values():
            assert score.low <= score.mean <= score.high
        for column, cell in zip(comparison.columns, row.cells, strict=True):
            assert cell is not None
            names = set(cell.scores) & (SUBJECT_SCORES | CLASS_SCORES)
            assert names == (SUBJECT_SCORES if column.kind == SUBJECT else CLASS_SCORES)
    assert comparison.rows[0].is_base
    assert comparison.rows[0].scores["drift"].mean == pytest.approx(1.0, abs=1e-5)
    (group,) = comparison.groups
    assert len(group.photos) == 3
    assert 0 < (group.references["subject"].ceiling or 0) <= 1
    assert group.recommendation is not None
    assert group.recommendation.verdict in outcome.said
    for line in lines_of(sampled):
        assert (line["score_subject"] == "") is ("sks" not in line["prompt"])


def test_the_encoder_is_named_with_notes_on_words_and_photos_unknown_to_it(whole: Scored) -> None:
    """On the terminal, in the table and on the page, which mention no other encoder."""
    comparison, outcome, sampled = whole
    page = (sampled.directory / "index.html").read_text(encoding="utf-8")
    assert comparison.scored_by == "the rendered world's judge"
    assert {line["scored_by"] for line in lines_of(sampled)} == {comparison.scored_by}
    words, photos = comparison.notes
    assert "was not trained with 'tin', 'can'" in words
    assert "photos of 'Tin Can' do not look like" in photos
    for text in (page, outcome.said):
        assert comparison.scored_by in text.replace("\\u0027", "'")
        assert not any(name in text for name in ("DINO", "CLIP-I", "CLIP-T"))
        assert words in text and photos in text
    assert all("the judge's embedding" in score.explanation for score in comparison.scores if score.name == "image")


def test_the_table_on_the_terminal_has_a_line_for_each_checkpoint(whole: Scored) -> None:
    comparison, outcome, _ = whole
    for row in comparison.rows:
        line = next(line for line in outcome.said.splitlines() if line[3:].startswith(row.label))
        assert f"{row.scores['subject'].mean:.3f}" in line
        assert f"{row.scores['leakage'].mean:.3f}" in line


def test_a_single_checkpoint_is_scored_beside_its_base_model(trained: Trained) -> None:
    comparison, _, _ = evaluated("-c", trained.step(6), *JUDGE, *PROMPTS, "-v", 1)
    assert [(row.is_base, row.step) for row in comparison.rows] == [(True, 0), (False, 6)]


def test_the_recommended_checkpoints_command_can_be_pasted(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "recommend", lambda candidates, scores: Recommendation(1, "This one.", []))
    for again in ((), ("-r", "outputs/evaluate-1")):  # nothing is scored the second time
        outcome = call("evaluate", *(again or ("-c", trained.step(6), *JUDGE, *PROMPTS, "-v", 1)))
        line = next(line for line in outcome.said.splitlines() if line.startswith("  python txt2img.py"))
        script, *words = shlex.split(line)[1:]
        assert (script, words) == (
            "txt2img.py",
            ["--ckpt-path", str(trained.step(6)), "-p", "a photo of sks Tin Can in the snow"],
        )


def test_without_photos_the_subject_is_not_scored_and_a_message_says_so(tmp_path: Path, tiny_checkpoint: Path) -> None:
    tuned(tmp_path / "ckpts" / "mug-1", tiny_checkpoint)
    comparison, outcome, _ = evaluated("-c", tmp_path / "ckpts", "--base", tiny_checkpoint, *JUDGE, *PROMPTS, "-v", 2)
    assert set(comparison.rows[1].scores) == {"prompt", "diversity", "drift"}
    recommendation = comparison.groups[0].recommendation
    assert recommendation is not None
    assert recommendation.row is None
    assert recommendation.verdict in outcome.said
    assert "no photos of 'mug' were found" in outcome.said


@pytest.mark.slow
def test_two_subjects_get_a_recommendation_each(tmp_path: Path, tiny_checkpoint: Path, subject_dir: Path) -> None:
    for name in ("mug", "cup"):
        record(tuned(tmp_path / "ckpts" / name, tiny_checkpoint, class_name=name).parent, tiny_checkpoint, subject_dir)
    comparison, outcome, _ = evaluated("-c", tmp_path / "ckpts", *JUDGE, *PROMPTS, "-v", 1)
    assert [group.subject for group in comparison.groups] == ["cup", "mug"]
    assert "\ncup: " in outcome.said
    assert "\nmug: " in outcome.said


@pytest.mark.slow
def test_a_model_without_a_subject_among_the_others_takes_nothing_from_their_scores(
    trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained.root, tmp_path / "ckpts")
    write_tiny_checkpoint(tmp_path / "ckpts" / "plain")
    comparison, _, _ = evaluated("-c", tmp_path / "ckpts", "--no-base", *JUDGE, "-p", PROMPTS[1], "a cat", "-v", 2)
    assert [column.kind for column in comparison.columns] == [SUBJECT] * 2 + [OTHER] * 2 + [CLASS] * 2
    plain, *taught = sorted(comparison.rows, key=lambda row: bool(row.step))
    assert all("subject" in row.scores for row in taught)
    assert set(plain.scores) == {"prompt", "diversity"}
    assert [bool(group.recommendation) for group in comparison.groups] == [
        group.subject != "" for group in comparison.groups
    ]


def test_txt2img_scores_what_it_samples_and_the_class_besides(trained: Trained) -> None:
    comparison, _, _ = evaluated("-c", trained.root, "-v", 1, "-p", "a cat", command="txt2img")
    assert comparison.scores == []
    assert comparison.rule == ""
    own = trained.step(6)
    refused(call("txt2img", "-c", own, "-v", 1, "-p", "a cat", "--score"), "weights/eval", "download/eval-weights.sh")


def test_ctrl_c_while_scoring_keeps_the_images_and_prints_how_to_continue(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("-c", trained.step(6), "--no-base", *JUDGE, *PROMPTS, "-v", 1, "-o", "my outputs")
    with monkeypatch.context() as patch:
        patch.setattr(run, "scored", Mock(side_effect=KeyboardInterrupt))
        outcome = call("evaluate", *arguments)
    assert outcome.status == 75
    assert "what is there: 3 images, grid.png and index.html" in outcome.said
    unscored = read_comparison(Path("my outputs/evaluate-1/comparison.json"))
    assert unscored.unfinished == "The images are not scored yet."
    assert "python evaluate.py -r 'my outputs/evaluate-1'" in outcome.said
    assert call("evaluate", "-r", "my outputs/evaluate-1").status == 0
    assert read_comparison(Path("my outputs/evaluate-1/comparison.json")).scores


def test_another_encoder_may_score_the_images_of_a_resumed_call(trained: Trained) -> None:
    evaluated("-c", trained.step(6), "--no-base", *JUDGE, *PROMPTS, "-v", 1)
    refused(call("evaluate", "-r", "outputs/evaluate-1", "--encoder", "clip-dino"), "download/eval-weights.sh")


@pytest.mark.slow
def test_a_comparison_is_scored_afterwards_without_sampling_again(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluated("-c", trained.root, *JUDGE, *PROMPTS, "-v", 1)
    monkeypatch.setattr(batches, "sample_latents", None)
    with monkeypatch.context() as patch:  # nor scored again, while nothing has changed
        patch.setattr(planning, "load_encoder", None)
        comparison, outcome, _ = evaluated("-r", "outputs/evaluate-1")
        again, _, _ = evaluated("-c", trained.root, *JUDGE, *PROMPTS, "-v", 1, "-r", "outputs/evaluate-1")
    assert again == comparison
    assert comparison.groups[0].recommendation is not None
    assert comparison.groups[0].recommendation.verdict in outcome.said
    assert set(comparison.rows[1].scores) == (SUBJECT_SCORES | CLASS_SCORES) - {"diversity"}
    photos = write_photos(tmp_path / "others", count=2)
    opened: list[Path] = []
    open_image = images.open_image
    monkeypatch.setattr(images, "open_image", lambda file, path: opened.append(path) or open_image(file, path))
    other, _, _ = evaluated("-r", "outputs/evaluate-1", "-i", photos)
    assert len(other.groups[0].photos) == 2
    assert sorted(path.name for path in opened if path.parent.name == "others") == ["0.png", "1.png"]  # once each
    assert other.rows[1].scores["subject"] != comparison.rows[1].scores["subject"]
    assert other.rows[1].scores["prompt"] == comparison.rows[1].scores["prompt"]
    refused(call("txt2img", "-r", "outputs/evaluate-1"), "evaluate.py")
    for flag, value in (("--prompt", "a cat"), ("--hw", 48)):
        refused(call("evaluate", "-r", "outputs/evaluate-1", flag, value), f"{flag} can't change")


def test_missing_weights_of_clip_and_dino_are_an_error_before_sampling(trained: Trained) -> None:
    refused(call("evaluate", "-c", trained.root, *PROMPTS), "weights/eval", "bash download/eval-weights.sh")
    assert not Path("outputs").exists()


def test_a_model_without_a_subject_needs_prompts(tiny_checkpoint: Path) -> None:
    refused(call("evaluate", "-c", tiny_checkpoint, *JUDGE), "has no subject", "-p")


def test_a_model_without_a_subject_is_scored_by_given_prompts(tiny_checkpoint: Path) -> None:
    comparison, _, _ = evaluated("-c", tiny_checkpoint, *JUDGE, "-p", "a red ball", "-v", 2)
    assert [column.kind for column in comparison.columns] == [OTHER] * 2
    assert set(comparison.rows[0].scores) == {"prompt", "diversity"}
    assert comparison.groups[0].recommendation is None


def test_a_directory_without_photos_is_refused(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(call("evaluate", "-c", trained.root, *JUDGE, "-i", tmp_path / "empty"), "--instance-img-dir")


# Prompts


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[str]:
    """The prompts of a call that is stopped before it samples."""
    seen: list[str] = []
    choose = job.prompts_to_score

    def watched(*given: Any) -> list[str]:
        seen.extend(choose(*given))
        raise KeyboardInterrupt

    monkeypatch.setattr("ldm.commands.sampling.planning.prompts_to_score", watched)
    outcome = call("evaluate", *arguments)
    assert outcome.status in (2, 75), outcome.said
    return seen


def test_the_short_list_is_the_models_and_the_class_comes_last(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = asked(monkeypatch, "-c", trained.root)
    assert prompts[0] == "a photo of sks {class}"
    assert prompts[-1] == "a photo of a {class}"
    assert 4 <= len(prompts) <= 8
    for prompt in ("a photo of a {class}", "a photo of a Tin Can"):
        assert asked(monkeypatch, "-c", trained.root, "-p", prompt) == [prompt]


@pytest.mark.parametrize(("class_name", "live"), [("mug", False), ("corgi dog", True)])
def test_the_papers_prompts_are_those_of_the_subjects_kind(
    class_name: str, live: bool, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(tmp_path / "ckpts", tiny_checkpoint, class_name=class_name)
    prompts = asked(monkeypatch, "-c", tmp_path / "ckpts", "--protocol", "dreambooth")
    assert prompts == [*dreambooth_prompts(live), "a photo of a {class}"]


def test_the_papers_prompts_do_not_suit_a_dog_and_a_mug_at_once(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for name in ("mug", "dog"):
        tuned(tmp_path / "ckpts" / name, tiny_checkpoint, class_name=name)
    refused(call("evaluate", "-c", tmp_path / "ckpts", "--protocol", "dreambooth"), "dog", "mug", "apart")


def test_a_missing_directory_is_an_error() -> None:
    refused(call("evaluate", *JUDGE), "there is no ckpts", "dreambooth.py")


def test_a_protocol_and_prompts_exclude_each_other(trained: Trained) -> None:
    refused(call("evaluate", "-c", trained.root, *PROMPTS, "--protocol", "dreambooth"), "--protocol", "-p")

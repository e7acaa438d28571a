"""Comparing and scoring from Python: the command's files as plain data, and as a notebook shows them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldm
from ldm.config import read_yaml
from ldm.evaluation import clip_dino
from ldm.report.table import JSON_NAME, read_comparison
from tests.commands.calls import pixels
from tests.commands.fixtures import Sample, Trained
from tests.evaluation.networks import write_networks

PROMPTS = ["a photo of sks {class}", "a <b>cat</b>"]


@pytest.fixture(scope="module")
def compared(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ldm.Comparison:
    """Two prompts with three checkpoints and their base model, not scored. It is shared: don't write to it."""
    output = tmp_path_factory.mktemp("compared")
    run = ldm.Run(trained.directory)
    return ldm.compare(run, prompts=PROMPTS, variations=1, device="cpu", output_dir=output)


@pytest.fixture(scope="module")
def scored(trained: Trained, compared: ldm.Comparison, tmp_path_factory: pytest.TempPathFactory) -> ldm.Comparison:
    """Another comparison of two checkpoints, scored."""
    output = tmp_path_factory.mktemp("scored")
    given = {"prompts": PROMPTS, "variations": 2, "device": "cpu", "encoder": "toyworld-judge"}
    return ldm.score(trained.directory, output_dir=output, no_base=True, **given)


def test_a_comparison_is_the_commands_files_as_data(compared: ldm.Comparison, trained: Trained) -> None:
    assert compared.table == read_comparison(compared.directory / JSON_NAME)
    assert [row.step for row in compared.rows] == [0, 3, 6, 7]
    assert compared.rows[0].is_base
    first, second = compared.images(1)
    cells = [cell for cell in compared.rows[1].cells if cell]
    assert first is not None and second is not None
    assert np.array_equal(np.asarray(first), pixels(compared.directory / cells[0].file))
    model = ldm.load(trained.step(3), device="cpu")
    assert np.array_equal(np.asarray(model.sample(PROMPTS[0])[0]), np.asarray(first))
    assert compared.page.is_file()
    assert compared.verdicts == [] and compared.recommended is None
    assert read_yaml(compared.directory / "run.yaml")["command"].startswith("python txt2img.py --ckpt-path=")


def test_scores_are_plain_data_and_a_checkpoint_is_recommended_or_it_is_said_why_none(scored: ldm.Comparison) -> None:
    assert [line["step"] for line in scored.scores] == [3, 6, 7]
    for line, row in zip(scored.scores, scored.rows, strict=True):
        assert line["subject"] == row.scores["subject"].mean
    (verdict,) = scored.verdicts
    assert verdict.subject == "Tin Can" and verdict.verdict and verdict.reasons
    assert scored.recommended == verdict.checkpoint
    assert verdict.checkpoint is None or str(verdict.checkpoint) in {row.checkpoint for row in scored.rows}


def test_a_notebook_shows_the_table_and_the_grid_and_runs_no_text_as_html(scored: ldm.Comparison) -> None:
    shown = scored._repr_html_()
    assert scored.verdicts[0].verdict in str(scored)
    assert re.search(r'<img src="data:image/png;base64,[\w+/]+=*">', shown)
    assert "<b>" not in shown
    assert max(scored.show().size) <= 1600


def test_a_comparison_that_is_there_is_scored_without_sampling_again(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load, networks = clip_dino.load_clip_dino, write_networks(tmp_path / "networks")
    monkeypatch.setattr(clip_dino, "load_clip_dino", lambda device: load(device, networks))
    compared = ldm.compare(trained.directory, prompts=PROMPTS[:1], variations=1, device="cpu", no_base=True)
    assert compared.directory == Path("outputs/txt2img-1")
    before = {path: path.stat().st_mtime_ns for path in compared.directory.glob("tin-can*.png")}
    scored = ldm.score(compared)
    assert scored.directory == compared.directory
    assert all("subject" in line for line in scored.scores)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_resume_dir_of_none_is_none(trained: Trained) -> None:
    with pytest.raises(ldm.UserError, match="is no directory: compare takes one with checkpoints below it"):
        ldm.compare(trained.step(3), resume_dir=None)


def test_a_comparison_of_img2img_is_refused_and_what_can_be_scored_is_named(
    trained: Trained, img2img: Sample, tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    directory = img2img("-c", trained.root, "--no-base", "-i", tmp_path / "red.png", "-p", "a cat", "-v", 1).directory
    comparison = ldm.Comparison(directory)
    with pytest.raises(ldm.UserError) as error:
        ldm.score(comparison)
    assert str(error.value) == (
        f"{directory} is img2img.py's, whose images start from another image and are not scored: score takes a "
        "comparison of compare, txt2img.py or evaluate.py, a run, or a directory of checkpoints"
    )


def test_an_evaluation_that_is_there_is_scored_again(scored: ldm.Comparison) -> None:
    again = ldm.score(scored)
    assert again.directory == scored.directory
    assert again.table.rows == scored.table.rows


def test_mistakes_are_the_users_errors(tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(ldm.UserError, match="is no directory: compare takes one with checkpoints below it"):
        ldm.compare(trained.step(3))
    with pytest.raises(ldm.UserError, match="there is no option 'varations'; did you mean 'variations'"):
        ldm.compare(trained.directory, varations=1)
    with pytest.raises(ldm.UserError, match="there is no file"):
        ldm.Comparison(tmp_path)
    with pytest.raises(ldm.UserError, match=r"there is no .*none: path takes a run of dreambooth"):
        ldm.score(tmp_path / "none")
    for wrong in (lambda: ldm.compare(5), lambda: ldm.score(5), lambda: ldm.Comparison(5)):  # type: ignore[arg-type]
        with pytest.raises(ldm.UserError, match="should be a path, not 5"):
            wrong()

"""A new score is a function and an entry of `SCORES`: the example of docs/extend.md."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.commands.sampling.scoring import scored
from ldm.data.images import read_image
from ldm.evaluation import scores
from ldm.evaluation.encoders import TOYWORLD_JUDGE, load_encoder
from ldm.evaluation.results import SUBJECT, Score
from ldm.evaluation.scores import Definition, GroupFeatures
from ldm.report.page import page_data
from ldm.report.summary import summary
from ldm.report.table import read_comparison, write_csv, write_json
from ldm.sampling_options import SAMPLING_OPTIONS
from tests.report.pages import sample_comparison, write_images

# --- the example, as it would stand in ldm/evaluation/scores.py -------------------------------------------------------


def closest_values(group: GroupFeatures) -> list[Tensor]:
    """Largest cosine with a photo as things."""
    return [(row.subjects @ group.photos.subjects.mT).amax(dim=1) for row in group.rows]


CLOSEST = Definition(
    Score("closest", "Closest", True, "Cosine of an image of the subject with the most similar photo."),
    closest_values,
    kinds=(SUBJECT,),
    space="things",
    needs_photos=True,
)
# ... and CLOSEST as an entry of SCORES


def test_a_new_score_reaches_the_table_the_files_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "SCORES", (*scores.SCORES, CLOSEST))
    sample = sample_comparison()
    sampling = {"negative_prompt": "", "height": 64, "width": 64, **{option.field: 1 for option in SAMPLING_OPTIONS}}
    sample = replace(sample, sampling=sampling, columns=[replace(one, kind=SUBJECT) for one in sample.columns])
    write_images(tmp_path, sample)
    photos = [[read_image(tmp_path / photo) for photo in sample.groups[0].photos]]
    found = scored(sample, tmp_path, photos, load_encoder(TOYWORLD_JUDGE, torch.device("cpu")))

    write_csv(tmp_path, found)
    write_json(tmp_path, found)
    (header, first, *_) = csv.reader((tmp_path / "pictures.csv").read_text().splitlines())
    closest, subject = (float(first[header.index(f"score_{name}")]) for name in ("closest", "subject"))
    assert closest > subject  # the largest of two cosines, and their mean
    assert read_comparison(tmp_path / "comparison.json").rows[0].scores["closest"].mean > subject
    assert any("checkpoint" in line and line.endswith("closest") for line in summary(found))
    page = page_data(found)
    assert page["scores"][-1]["explanation"].endswith("Measured in the judge's embedding of things.")
    assert page["rows"][0]["cells"][0]["scores"]["closest"] == closest

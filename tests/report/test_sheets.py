"""The grid of a comparison: its cells and labels, and pages where it is large."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldm.report import grid, sheets
from ldm.report.grid import MARGIN, MAX_PAGE, Heading, enlargement, pages
from tests.commands.calls import call
from tests.commands.fixtures import Sample, Trained
from tests.commands.sampling.test_comparing import mug
from tests.report.tables import stop_after


@dataclass(frozen=True)
class Sheet:
    """The arguments of one sheet."""

    cells: Any
    rows: list[str]
    columns: list[str]
    headings: list[Heading]


@pytest.fixture
def drawn_sheets(monkeypatch: pytest.MonkeyPatch) -> list[Sheet]:
    """Every sheet from now on."""
    seen: list[Sheet] = []
    labelled_grid = sheets.labelled_grid

    def watched(*arguments: Any) -> Image.Image:
        seen.append(Sheet(*arguments))
        return labelled_grid(*arguments)

    monkeypatch.setattr(sheets, "labelled_grid", watched)
    return seen


def test_the_grid_has_a_row_per_checkpoint_and_a_column_per_prompt_and_seed(
    txt2img: Sample, trained: Trained, drawn_sheets: list[Sheet]
) -> None:
    sampled = txt2img("-c", trained.root, "-v", 2, "-p", "a cat", "a {class}", "--hw", 32, 48, "--no-base")
    (sheet,) = drawn_sheets
    assert sheet.rows == ["step 3", "step 6", "step 7"]
    assert sheet.columns == ["seed 42", "seed 43"] * 2
    assert sheet.headings == [Heading("a cat", 2), Heading("a Tin Can", 2)]
    for row, start in zip(sheet.cells, (0, 4, 8), strict=True):
        for cell, image in zip(row, sampled.images[start : start + 4], strict=True):
            assert np.array_equal(np.asarray(cell), image)
    width, height = Image.open(sampled.directory / "grid.png").size
    assert width > 4 * 48
    assert height > 3 * 32


def test_labels_of_several_runs_have_their_names_and_headings_all_classes(
    txt2img: Sample, tmp_path: Path, drawn_sheets: list[Sheet]
) -> None:
    mug(tmp_path / "ckpts" / "mug-1")
    mug(tmp_path / "ckpts" / "run-1", seed=4, class_name="cup", instance_prompt="a photo of sks cup")
    txt2img("-c", tmp_path / "ckpts", "-v", 1)
    assert drawn_sheets[0].rows == ["mug-1 step 5", "run-1 step 5\n(cup)"]
    assert drawn_sheets[0].headings == [Heading("a photo of sks mug / cup", 1)]


def test_a_large_grid_comes_in_pages_with_all_labels(
    txt2img: Sample, trained: Trained, drawn_sheets: list[Sheet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "MAX_PAGE", 3 * (160 + MARGIN))
    sampled = txt2img("-c", trained.root, "-v", 2, "-p", "a cat", "a dog", "--no-base", "-o", "out")
    assert sorted(path.name for path in sampled.directory.glob("grid*")) == ["grid-1.png", "grid-2.png"]
    assert "12 images, grid-1.png to grid-2.png and index.html in " in sampled.said
    assert [sheet.headings for sheet in drawn_sheets] == [[Heading("a cat", 2)], [Heading("a dog", 2)]]
    assert [sheet.rows for sheet in drawn_sheets] == [["step 3", "step 6", "step 7"]] * 2
    monkeypatch.setattr(grid, "MAX_PAGE", MAX_PAGE)
    sampled.paths[0].unlink()
    assert call("txt2img", "-r", sampled.directory).status == 0
    assert [path.name for path in sampled.directory.glob("grid*")] == ["grid.png"]


def test_pages_without_an_image_are_left_out_when_a_call_is_interrupted(
    txt2img: Sample, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "MAX_PAGE", 3 * (160 + MARGIN))
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        outcome = call("txt2img", "-c", trained.root, "-v", 6, "--no-base")
    assert outcome.status == 75
    assert "what is there: 1 image, grid.png and index.html" in outcome.said
    assert [path.name for path in Path("outputs/txt2img-1").glob("grid*")] == ["grid.png"]
    assert call("txt2img", "-r", "outputs/txt2img-1").status == 0
    assert len(list(Path("outputs/txt2img-1").glob("grid-*"))) == 2


@given(
    st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=8)
)
def test_pages_show_every_cell_once_and_large_enough(width: int, height: int, rows: int, columns: list[int]) -> None:
    seen: set[tuple[int, int]] = set()
    scale = enlargement(width, height)
    for row_span, column_span in pages(width, height, rows, columns):
        here = {
            (row, column)
            for row in range(row_span.start, row_span.end)
            for column in range(column_span.start, column_span.end)
        }
        assert here and not here & seen
        seen |= here
        if row_span.end - row_span.start > 1:
            assert (row_span.end - row_span.start) * height * scale <= MAX_PAGE
        if column_span.end - column_span.start > 1:
            assert (column_span.end - column_span.start) * width * scale <= MAX_PAGE
    assert seen == {(row, column) for row in range(rows) for column in range(sum(columns))}


def test_the_seeds_of_a_prompt_stay_on_one_page_if_they_fit() -> None:
    most = MAX_PAGE // (512 + MARGIN)
    spans = [(column.start, column.end) for _, column in pages(512, 512, 1, [4] * 5)]
    assert most == 11
    assert spans == [(0, 8), (8, 16), (16, 20)]
    assert [(span.start, span.end) for _, span in pages(512, 512, 1, [20, 4])] == [(0, 10), (10, 20), (20, 24)]

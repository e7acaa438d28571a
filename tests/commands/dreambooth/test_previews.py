"""Previews: the same noise and prompts at every save and before the first, and one sheet that grows with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.commands.dreambooth import previews
from tests.commands.calls import call, difference, pixels
from tests.commands.dreambooth.fine_tuning import FineTune, Plan
from tests.commands.fixtures import Trained, UNetCall

STEPS = (0, 3, 6, 9, 12)


def singles(run: Trained) -> list[list[np.ndarray]]:
    """The images of each step, in the order of their prompts."""
    images = run.directory / "samples" / "pictures"
    return [[pixels(images / f"step-{step:05d}_{index:02d}.png") for index in range(2)] for step in STEPS]


def test_step_0_is_sampled_by_the_base_model(uninterrupted: Trained, tiny_checkpoint: Path, tmp_path: Path) -> None:
    prompts = ("a photo of sks can", "a photo of a can")
    words = ("-c", tiny_checkpoint, "-p", *prompts, "-v", 1, "--seed", 7, "-o", tmp_path)
    assert call("txt2img", *words).status == 0
    sampled = [pixels(path) for path in sorted(tmp_path.glob("txt2img-1/0*.png"))]
    assert [difference(one, other) for one, other in zip(singles(uninterrupted)[0], sampled, strict=True)] == [0, 0]


def test_the_sheet_of_all_steps_shows_every_step_and_prompt(uninterrupted: Trained) -> None:
    sheet = pixels(uninterrupted.directory / "samples" / "sweep.png")
    images = singles(uninterrupted)
    for row, step in enumerate(images):
        for column, image in enumerate(step):
            bottom, right = ((count - 1 - place) * 168 + 8 for count, place in ((5, row), (2, column)))
            cell = sheet[-bottom - 160 : -bottom, -right - 160 : -right]
            assert np.array_equal(cell, image.repeat(5, axis=0).repeat(5, axis=1))
    assert difference(images[0][0], images[-1][0]) > 0


PROMPTS = ("a photo of sks can", "a can", "a photo of a can")


def sampled_untrained(plan: Plan, root: Path) -> list[np.ndarray]:
    plan("--preview-prompt", *PROMPTS, "--class-img-count", 0, "-o", root)
    return [pixels(path) for path in sorted(root.rglob("step-00000_*.png"))]


@pytest.mark.slow
def test_previews_are_batched_and_if_memory_is_too_small_sampled_one_by_one(
    plan: Plan,
    tmp_path: Path,
    unet_calls: list[UNetCall],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    singly = sampled_untrained(plan, tmp_path / "singly")
    assert len(singly) == 3
    assert {one.batch for one in unet_calls} == {2}

    unet_calls.clear()
    monkeypatch.setattr(previews, "images_at_a_time", lambda *how: 2)
    together = sampled_untrained(plan, tmp_path / "together")
    assert [one.batch for one in unet_calls] == [4, 4, 4, 2, 2, 2]
    assert max(difference(one, other) for one, other in zip(singly, together, strict=True)) <= 1
    assert min(difference(singly[0], other) for other in together[1:]) > 1

    sample_latents = previews.sample_latents

    def too_large(ldm: Any, guidance: Any, seeds: Any, *how: Any) -> Any:
        if len(seeds) > 1:
            raise torch.OutOfMemoryError
        return sample_latents(ldm, guidance, seeds, *how)

    monkeypatch.setattr(previews, "sample_latents", too_large)
    caplog.clear()
    again = sampled_untrained(plan, tmp_path / "again")
    assert "too little memory to sample previews in a batch" in caplog.text
    assert [difference(one, other) for one, other in zip(singly, again, strict=True)] == [0, 0, 0]


@pytest.mark.slow
def test_the_sheet_of_a_long_run_shows_some_of_its_steps(
    fine_tune: FineTune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows: list[list[str]] = []
    labelled_grid = previews.labelled_grid

    def watched(cells: Any, row_labels: list[str], columns: list[str]) -> Image.Image:
        rows.append(row_labels)
        for folder in tmp_path.glob("ckpts/*/samples/pictures"):  # elsewhere a checkpoint is being written
            (folder / "step-mine_00.png").touch()  # what isn't a step's is nobody's business
        return labelled_grid(cells, row_labels, columns)

    monkeypatch.setattr(previews, "labelled_grid", watched)
    monkeypatch.setattr(previews, "MOST_ROWS", 4)
    fine_tune("--iterations", 6, "-s", 1, "--class-img-count", 0)
    assert rows[1::2] == [
        ["step 0"],
        ["step 0", "step 1"],
        ["step 0", "step 1", "step 2"],
        ["step 0", "step 1", "step 2", "step 3"],
        ["step 0", "step 1", "step 3", "step 4"],
        ["step 0", "step 2", "step 3", "step 5"],
        ["step 0", "step 2", "step 4", "step 6"],
    ]
    assert list(tmp_path.rglob("step-mine_00.png"))

"""The base model is the first row of a comparison, found by its SHA-256; a warning if it isn't found."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ldm.commands.elsewhere import sha256_of
from ldm.commands.sampling import groups
from ldm.runtime import models
from tests.commands.calls import call, difference, refused
from tests.commands.fixtures import Sample, Trained
from tests.report.tables import record, table_of, tuned
from tests.tiny import build_tiny_model, write_tiny_checkpoint


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Base weights of their own."""
    return write_tiny_checkpoint(tmp_path / "elsewhere", model=build_tiny_model(7), name="base.safetensors")


@pytest.fixture
def ckpts(tmp_path: Path, base: Path) -> Path:
    """A run of two steps, without a record."""
    for step in (5, 10):
        tuned(tmp_path / "ckpts" / "mug-1", base, step, seed=step)
    return tmp_path / "ckpts"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every hashed file, once."""
    seen: list[Path] = []

    def watched(path: Path) -> str:
        seen.extend([path] if path not in seen else [])
        return sha256_of(path)

    monkeypatch.setattr(groups, "sha256_of", watched)
    return seen


def test_the_base_model_that_a_runs_record_names_is_its_first_row(
    txt2img: Sample, trained: Trained, tiny_checkpoint: Path, hashed: list[Path]
) -> None:
    sampled = txt2img("-c", trained.root, "-v", 1)
    comparison = table_of(sampled)
    assert [(row.label, row.is_base, row.run, row.step) for row in comparison.rows] == [
        ("base model", True, "", 0),
        ("step 3", False, "tin-can-1", 3),
        ("step 6", False, "tin-can-1", 6),
        ("step 7", False, "tin-can-1", 7),
    ]
    assert comparison.rows[0].checkpoint == str(tiny_checkpoint)
    assert hashed == [tiny_checkpoint]
    image = sampled.directory / "base-tin-can_00-a-photo-of-sks-tin-can_42.png"
    alone = txt2img("-p", "a photo of sks Tin Can", "-v", 1)
    assert difference(sampled.images[sampled.paths.index(image)], alone.images[0]) == 0


@pytest.mark.slow
def test_each_subject_and_each_base_has_its_base_row_and_a_base_of_two_is_hashed_once(
    txt2img: Sample, tmp_path: Path, base: Path, hashed: list[Path]
) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", model=build_tiny_model(8), name="other.safetensors")
    for run, class_name, file in (("a", "mug", base), ("b", "cup", base), ("c", "mug", other), ("d", "mug", base)):
        record(tuned(tmp_path / "ckpts" / run, file, class_name=class_name).parent, file)
    comparison = table_of(txt2img("-c", tmp_path / "ckpts", "-v", 1))
    assert [(row.group, row.label, Path(row.checkpoint).name) for row in comparison.rows] == [
        (0, "base model, a", "base.safetensors"),
        (0, "a step 5", "step-00005.safetensors"),
        (0, "d step 5", "step-00005.safetensors"),
        (1, "base model, cup", "base.safetensors"),
        (1, "b step 5", "step-00005.safetensors"),
        (2, "base model, c", "other.safetensors"),
        (2, "c step 5", "step-00005.safetensors"),
    ]
    assert [group.subject for group in comparison.groups] == ["mug", "cup", "mug"]
    assert sorted(hashed) == [base, other]
    files = [cell.file for row in comparison.rows for cell in row.cells if cell]
    assert len(set(files)) == 7


def test_runs_with_other_photos_are_another_group(
    txt2img: Sample, tmp_path: Path, base: Path, photos: Path, subject_dir: Path
) -> None:
    for run, directory in (("a", photos), ("b", subject_dir), ("c", photos)):
        record(tuned(tmp_path / "ckpts" / run, base).parent, base, directory)
    comparison = table_of(txt2img("-c", tmp_path / "ckpts", "-v", 1))
    assert [(row.group, row.run) for row in comparison.rows] == [(0, ""), (0, "a"), (0, "c"), (1, ""), (1, "b")]
    assert [len(group.photos) for group in comparison.groups] == [5, 3]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["downloaded", "embedded", "beside"])
def test_a_base_of_the_recorded_name_is_found_without_a_record(
    place: str, txt2img: Sample, ckpts: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "downloaded":
        monkeypatch.setattr(models, "DOWNLOADED", base.parent)
    elif place == "embedded":
        monkeypatch.setattr(models, "EMBEDDED", base)
    else:  # it stands before its run, and not also on its own
        shutil.copytree(base.parent, ckpts, dirs_exist_ok=True)
    rows = table_of(txt2img("-c", ckpts, "-v", 1)).rows
    assert [row.label for row in rows] == ["base model", "step 5", "step 10"]
    assert Path(rows[0].checkpoint).name == "base.safetensors"


def test_a_missing_base_model_gives_a_warning_that_names_the_flag(txt2img: Sample, ckpts: Path, base: Path) -> None:
    record(ckpts / "mug-1", base)
    stray = write_tiny_checkpoint(base.parent, name="base.safetensors")  # another file of that name
    sampled = txt2img("-c", ckpts, "-v", 1)
    assert [row.label for row in table_of(sampled).rows] == ["step 5", "step 10"]
    warning = next(line for line in sampled.said.splitlines() if "base model of" in line)
    for words in ("warning", "base.safetensors", str(stray), "--base PATH"):
        assert words in warning


def test_base_adds_its_row_to_a_resumed_comparison(txt2img: Sample, ckpts: Path, base: Path) -> None:
    sampled = txt2img("-c", ckpts, "-v", 1)
    before = {path: path.stat().st_mtime_ns for path in sampled.paths}
    outcome = call("txt2img", "-r", sampled.directory, "--base", base)
    assert outcome.status == 0, outcome.said
    assert [row.label for row in table_of(sampled).rows] == ["base model", "step 5", "step 10"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert call("txt2img", "-r", sampled.directory).status == 0
    assert len(table_of(sampled).rows) == 3  # it is remembered


def test_no_base_leaves_it_out(txt2img: Sample, trained: Trained, hashed: list[Path]) -> None:
    assert not any(row.is_base for row in table_of(txt2img("-c", trained.root, "-v", 1, "--no-base")).rows)
    assert not hashed


def test_a_base_that_no_run_began_with_is_refused(ckpts: Path, tiny_checkpoint: Path, base: Path) -> None:
    refused(call("txt2img", "-c", ckpts, "--base", tiny_checkpoint), f"--base {tiny_checkpoint}", "none of the")
    refused(call("txt2img", "-c", ckpts, "--base", "nowhere.ckpt"), "no checkpoint nowhere.ckpt")


def test_base_and_no_base_exclude_each_other_and_the_later_counts_in_a_resumed_comparison(
    txt2img: Sample, ckpts: Path, base: Path
) -> None:
    refused(call("txt2img", "-c", ckpts, "--base", base, "--no-base"), "--no-base: not allowed with argument --base")
    sampled = txt2img("-c", ckpts, "-v", 1, "--no-base")
    for flags, count in ((("--base", base), 3), (("--no-base",), 2), ((), 2)):
        assert call("txt2img", "-r", sampled.directory, *flags).status == 0
        assert len(table_of(sampled).rows) == count


@pytest.mark.parametrize("flag", [("--base", "a.ckpt"), ("--no-base",), ("--instance-img-dir", ".")])
def test_flags_for_directories_are_refused_for_a_file(flag: tuple[str, ...], tiny_checkpoint: Path) -> None:
    refused(call("txt2img", "-c", tiny_checkpoint, *flag), f"{flag[0]} is for comparing a directory")


def test_an_unreadable_base_model_is_left_out_with_a_warning(txt2img: Sample, tmp_path: Path, base: Path) -> None:
    path = tuned(tmp_path / "ckpts" / "mug-1", base)
    base.write_bytes(b"cut off")
    tuned(path.parent, base, step=10)
    record(path.parent, base)
    sampled = txt2img("-c", path.parent, "-v", 1)
    assert "neither a safetensors file nor a torch checkpoint" in sampled.said
    assert [row.step for row in table_of(sampled).rows] == [5, 10]


def test_prompts_are_encoded_once_per_text_encoder_also_if_it_comes_again(
    txt2img: Sample, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base model stands in both groups, between others."""
    for run, class_name in (("a", "mug"), ("b", "cup")):
        record(tuned(tmp_path / "ckpts" / run, base, class_name=class_name, seed=ord(run)).parent, base)
    encoded: list[str] = []
    encode = models.encode_prompt

    def watched(ldm: Any, prompt: str, *reading: Any) -> Tensor:
        encoded.append(prompt)
        return encode(ldm, prompt, *reading)

    monkeypatch.setattr(models, "encode_prompt", watched)
    txt2img("-c", tmp_path / "ckpts", "-v", 2, "-p", "a cat")
    assert sorted(encoded) == ["", "", "", "a cat", "a cat", "a cat"]

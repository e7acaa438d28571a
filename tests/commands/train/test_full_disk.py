"""On a full disk each stage of train.py ends with one line, and resumes to the same bits later."""

import sys
from pathlib import Path

import pytest

from ldm.checkpoint.discovery import RESUME_STATE
from tests.commands.calls import call, equal, refused
from tests.commands.train.stages import LAST, Scratch
from tests.full_disk import entries, files_of_at_most

TOO_LARGE = "File too large; `ulimit -f` allows files of "


@pytest.mark.parametrize("what", ["run.yaml", "step-000003.safetensors", RESUME_STATE])
def test_a_training_that_could_not_write_resumes_when_it_can(what: str, scratch: Scratch, first: Path) -> None:
    words = ("autoencoder", "--save-dtype", "fp32")
    run = scratch.runs / first.name
    with files_of_at_most((first / what).stat().st_size - 100):
        refused(scratch.call(*words), f"could not write {run / what}: {TOO_LARGE}")
    assert not [name for name in entries(scratch.runs) if ".partial" in name or ".tmp" in name]
    if what == "run.yaml":
        scratch.train(*words)
    else:
        scratch.train("autoencoder", "-r", run)
    assert equal(first / LAST, run / LAST)
    assert [path.name for path in scratch.runs.iterdir()] == [run.name]


def test_latents_that_could_not_be_written_are_encoded_when_they_can(
    scratch: Scratch, first: Path, second: Path
) -> None:
    (latents,) = (second.parent / "latents").iterdir()
    run = scratch.runs / "diffusion-1"
    with files_of_at_most(latents.stat().st_size - 100):
        outcome = scratch.call("diffusion", "--save-dtype", "fp32", "--autoencoder", first / LAST)
    refused(outcome, "could not write", "latents", f".npy: {TOO_LARGE}")
    assert entries(scratch.runs / "latents") == set()
    scratch.train("diffusion", "-r", run)
    assert equal(second / LAST, run / LAST)


def test_a_tokenizer_is_written_as_a_whole_or_not_at_all(scratch: Scratch, tmp_path: Path) -> None:
    there = {name: (scratch.tokenizer / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    for name in there:
        (scratch.tokenizer / name).unlink()
    with files_of_at_most(500):
        refused(scratch.call("tokenizer"), f"could not write {scratch.tokenizer}: {TOO_LARGE}")
    assert entries(scratch.tokenizer) == set()
    assert scratch.call("tokenizer").status == 0
    assert {name: (scratch.tokenizer / name).read_bytes() for name in there} == there
    assert not list(tmp_path.glob(".*"))


def test_a_model_that_can_not_be_published_leaves_the_old_one(
    second: Path, scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["ldm.commands.train.publish"], "ROOT", tmp_path)
    assets = tmp_path / "ldm" / "assets"
    assets.mkdir(parents=True)
    (assets / "scratch.safetensors").write_text("old")
    with files_of_at_most(5000):
        outcome = call("train", "publish", "--ckpt-path", second / LAST, "--config", scratch.config)
    refused(outcome, f"could not write {assets / 'scratch.safetensors'}: {TOO_LARGE}")
    assert entries(assets) == {"scratch.safetensors"}
    assert (assets / "scratch.safetensors").read_text() == "old"

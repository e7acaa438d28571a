"""Pictures are encoded once, and again where they have changed."""

import shutil

from tests.commands.train.stages import Plan, Scratch


def test_pictures_are_encoded_once_for_all_runs(plan: Plan, scratch: Scratch) -> None:
    plan("diffusion")
    (latents,) = (scratch.runs / "latents").iterdir()
    changed = latents.stat().st_mtime_ns
    plan("diffusion", "--seed", 3)
    assert [path.stat().st_mtime_ns for path in (scratch.runs / "latents").iterdir()] == [changed]


def test_a_changed_picture_is_encoded_again(plan: Plan, scratch: Scratch) -> None:
    plan("diffusion")
    shutil.copy(scratch.pictures / "1.png", scratch.pictures / "2.png")
    plan("diffusion")
    assert len(list((scratch.runs / "latents").iterdir())) == 2


def test_only_pictures_with_captions_are_trained_on(plan: Plan, scratch: Scratch) -> None:
    lines = (scratch.pictures / "metadata.jsonl").read_text().splitlines()
    (scratch.pictures / "metadata.jsonl").write_text("\n".join(lines[:7]))
    assert len(plan("diffusion").module.captions) == 7
    assert len(plan("autoencoder").module.paths) == 12

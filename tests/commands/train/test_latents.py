"""Images are encoded once, and again where they have changed."""

import shutil

from tests.commands.train.stages import Plan, Scratch


def test_images_are_encoded_once_for_all_runs(plan: Plan, scratch: Scratch) -> None:
    plan("diffusion")
    (latents,) = (scratch.runs / "latents").iterdir()
    changed = latents.stat().st_mtime_ns
    plan("diffusion", "--seed", 3)
    assert [path.stat().st_mtime_ns for path in (scratch.runs / "latents").iterdir()] == [changed]


def test_a_changed_image_is_encoded_again(plan: Plan, scratch: Scratch) -> None:
    plan("diffusion")
    shutil.copy(scratch.images / "1.png", scratch.images / "2.png")
    plan("diffusion")
    assert len(list((scratch.runs / "latents").iterdir())) == 2


def test_only_images_with_captions_are_trained_on(plan: Plan, scratch: Scratch) -> None:
    lines = (scratch.images / "metadata.jsonl").read_text().splitlines()
    (scratch.images / "metadata.jsonl").write_text("\n".join(lines[:7]))
    assert len(plan("diffusion").module.captions) == 7
    assert len(plan("autoencoder").module.paths) == 12

"""Images are encoded once, and again if they have changed."""

import shutil
from pathlib import Path

from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import hash_part
from ldm.data.captioned import find_captioned
from ldm.data.latents import earlier_latents_key
from tests.commands.train.stages import LAST, Plan, Scratch


def files(scratch: Scratch) -> dict[str, int]:
    """The encoded images, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (scratch.runs / "latents").iterdir()}


def test_images_are_encoded_once_for_all_runs_also_after_they_have_moved(
    plan: Plan, scratch: Scratch, tmp_path: Path
) -> None:
    plan("diffusion")
    encoded = files(scratch)
    plan("diffusion", "--seed", 3)
    plan("diffusion", "-i", shutil.move(scratch.images, tmp_path / "moved"))
    assert len(encoded) == 1
    assert files(scratch) == encoded


def test_what_an_earlier_version_encoded_is_used(plan: Plan, scratch: Scratch, first: Path) -> None:
    plan("diffusion")
    (latents,) = (scratch.runs / "latents").iterdir()
    sha256 = hash_part(read_checkpoint(first / LAST).tensors, "autoencoder")
    paths = [image.path for image in find_captioned(scratch.images)]
    earlier = latents.rename(latents.with_stem(earlier_latents_key(sha256, paths, 16, True, "torch.float32")))
    plan("diffusion")
    assert list(files(scratch)) == [earlier.name]


def test_a_changed_image_is_encoded_again(plan: Plan, scratch: Scratch) -> None:
    plan("diffusion")
    shutil.copy(scratch.images / "1.png", scratch.images / "2.png")
    plan("diffusion")
    assert len(files(scratch)) == 2


def test_only_images_with_captions_are_trained_on(plan: Plan, scratch: Scratch) -> None:
    lines = (scratch.images / "metadata.jsonl").read_text().splitlines()
    (scratch.images / "metadata.jsonl").write_text("\n".join(lines[:7]))
    assert len(plan("diffusion").module.captions) == 7
    assert len(plan("autoencoder").module.paths) == 12

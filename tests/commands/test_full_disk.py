"""Every kind of file is written whole or not at all, and one line names the file and the system's reason."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.saving import checkpoint_writer
from ldm.commands.record import write_record
from ldm.data.images import save_png
from ldm.data.latents import write_moments
from ldm.data.writing import ImageWriter
from ldm.errors import UserError
from ldm.nn.autoencoder import AutoencoderConfig, AutoencoderKL
from ldm.report.page import write_page
from ldm.report.table import write_csv, write_json
from ldm.toyworld.judge.file import judge_writer
from ldm.training.resume_state import write_state
from ldm.training.tokenizer import train_tokenizer
from tests.full_disk import entries, files_of_at_most
from tests.judges import build_tiny_judge
from tests.report.pages import sample_comparison
from tests.tiny import build_tiny_model

COMPARISON = sample_comparison()
SAMPLED = replace(
    COMPARISON,
    sampling={
        **dict.fromkeys(("negative_prompt", "sampler"), ""),
        **dict.fromkeys(("num_steps", "guidance_scale", "eta", "width", "height"), 1),
    },
)

LIMIT = 700
"""Bytes; every file here is larger."""


def noise(size: int = 64) -> Image.Image:
    return Image.effect_noise((size, size), 100).convert("RGB")


def latents(path: Path) -> None:
    autoencoder = AutoencoderKL(AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, num_groups=4)).eval()
    photo = path.parent.parent / "photo.png"
    write_moments(path, autoencoder, [photo] * 4, 16, flip=True)


def image(path: Path) -> None:
    with ImageWriter(2) as writer:
        writer.put(path, torch.rand(3, 64, 64), {})


WRITERS: dict[str, Callable[[Path], object]] = {
    "step.safetensors": lambda path: checkpoint_writer(
        path, build_tiny_model(), CheckpointInfo(config={}), torch.half
    )(),
    "judge.safetensors": lambda path: judge_writer(path, build_tiny_judge(), "abc")(),
    "resume.ckpt": lambda path: write_state({"weights": torch.rand(5000)}, path),
    "a.npy": latents,
    "photo.png": lambda path: save_png(path, noise()),
    "image.png": image,
    "pictures.csv": lambda path: write_csv(path.parent, SAMPLED),
    "comparison.json": lambda path: write_json(path.parent, COMPARISON),
    "index.html": lambda path: write_page(path.parent, COMPARISON),
    "run.yaml": lambda path: write_record(path, {f"option {number}": number for number in range(99)}),
    "tokenizer": lambda path: train_tokenizer(["a red disc"] * 3, 514, path),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for what is written, with a photo beside it."""
    noise().save(tmp_path / "photo.png")
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_grows_too_large_is_not_written_at_all(name: str, place: Path) -> None:
    with files_of_at_most(LIMIT), pytest.raises(UserError) as error:
        WRITERS[name](place / name)
    assert str(error.value) == f"could not write {place / name}: File too large; `ulimit -f` allows files of 700 bytes"
    assert entries(place) == set()
    WRITERS[name](place / name)
    assert entries(place) - {"tokenizer/vocab.json", "tokenizer/merges.txt"} == {name}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_when_it_is_flushed_leaves_the_old_file(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As network file systems and delayed allocation do it: all is taken, and then there is no room."""
    if name != "tokenizer":
        (place / name).write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as error:
        WRITERS[name](place / name)
    message = str(error.value)
    assert message.startswith(f"could not write {place / name}: No space left on device; ")
    assert message.endswith(f" are free in {place}")
    assert ("it takes" in message) == (name in {"step.safetensors", "judge.safetensors", "resume.ckpt", "a.npy"})
    assert entries(place) == (set() if name == "tokenizer" else {name})
    assert name == "tokenizer" or (place / name).read_text() == "old"

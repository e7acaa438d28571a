"""Warnings of words and photos that the embedded tiny model doesn't know, before anything is computed."""

import logging
from pathlib import Path

import pytest
import torch

from ldm.checkpoint.reading import read_checkpoint
from ldm.commands.dreambooth import plan as planning
from ldm.commands.sampling import run as sampling
from ldm.commands.unfamiliar import in_quotes, warn_of_photos, warn_of_unknown_words
from ldm.data.photos import read_directory
from ldm.files import ROOT
from ldm.runtime.models import EMBEDDED, Settings, read_tokenizer, settings_of
from ldm.runtime.tokenizers import find_tokenizer
from ldm.toyworld import photograph, render, unusual_subject
from ldm.toyworld.words import SETTINGS
from tests.commands.calls import call
from tests.commands.fixtures import write_photos

SIZE = (64, 64)
INSTEAD = "64 x 64 images; real photos need Stable Diffusion: bash download/sd-weights.sh"
UNKNOWN_WORD = (
    "the tiny model does not know 'dog'; it makes 64 x 64 images of a rendered world; "
    "real photos need Stable Diffusion: bash download/sd-weights.sh"
)


@pytest.fixture(scope="module")
def tiny() -> Settings:
    return settings_of(read_checkpoint(EMBEDDED), None)[1]


@pytest.mark.parametrize("command", ["dreambooth", "txt2img", "img2img", "evaluate"])
def test_every_command_warns_of_unknown_words_and_photos(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_photos(tmp_path / "photos", 4)
    flags = {
        "dreambooth": ("-c", "dog", "-i", photos, "--ckpt-path", EMBEDDED),
        "txt2img": ("-p", "a photo of a dog", "-c", EMBEDDED),
        "img2img": ("-p", "a photo of a dog", "-c", EMBEDDED, "-i", photos / "0.png"),
        "evaluate": ("-p", "a photo of sks dog", "-c", EMBEDDED, "-i", photos),
    }

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "sha256_of", stop)
    monkeypatch.setattr(sampling, "sample_rows", stop)
    outcome = call(command, *flags[command], "-o", tmp_path / "out")
    assert outcome.status == 75
    assert UNKNOWN_WORD in outcome.said
    if command != "txt2img":
        assert (
            str(photos) in outcome.said
            and "does not look like a rendered world, and the tiny model knows nothing else" in outcome.said
        )
        assert f"It makes {INSTEAD}" in outcome.said


def test_there_is_no_warning_of_its_own_world(tiny: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Its captions' settings, the identifier token, and renders of subjects that its captions did not have."""
    caplog.set_level(logging.WARNING, logger="ldm")
    tokenizer = read_tokenizer(find_tokenizer(EMBEDDED, tiny.tokenizer), tiny)
    prompts = [f"A photo of sks water bottle {words}, 2" for phrases in SETTINGS.values() for words in phrases]
    warn_of_unknown_words(tiny, tokenizer, prompts)
    warn_of_photos(tiny, "bottle", lambda: read_directory(ROOT / "data" / "bottle", *SIZE)[1])
    for class_name in ("mug", "hat", "duck"):
        renders = render(photograph(unusual_subject(2, class_name), 4, 2), 64, supersample=2)
        warn_of_photos(tiny, class_name, lambda renders=renders: renders)
    assert not caplog.records


def test_there_is_no_warning_for_another_model(caplog: pytest.LogCaptureFixture, tiny_checkpoint: Path) -> None:
    other = settings_of(read_checkpoint(tiny_checkpoint), None)[1]
    tokenizer = read_tokenizer(find_tokenizer(tiny_checkpoint, other.tokenizer), other)
    warn_of_unknown_words(other, tokenizer, ["a photo of an axolotl"])
    warn_of_photos(other, "noise", lambda: torch.rand(3, 3, *SIZE))
    assert not caplog.records


def test_a_warning_names_a_few_words() -> None:
    assert in_quotes(["dog", "dog", "cat"]) == "'dog', 'cat'"
    assert in_quotes("abcdefg") == "'a', 'b', 'c', 'd', 'e' and 2 more"

"""The weights of txt2img.py: given, downloaded or embedded; errors for broken ones."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ldm.config import to_yaml
from ldm.runtime import models
from tests.commands.calls import call, difference, metadata_of, refused, tensors_of
from tests.commands.fixtures import Sample
from tests.tiny import TINY_YAML, write_tiny_checkpoint

# With what


def test_config_is_used_for_a_checkpoint_without_its_own(txt2img: Sample, tmp_path: Path) -> None:
    bare = write_tiny_checkpoint(tmp_path / "bare", config={})
    values = {**TINY_YAML, "sampling": {**TINY_YAML["sampling"], "num_steps": 2, "prompt": "a dog"}}
    (tmp_path / "tiny.yaml").write_text(to_yaml(values))
    sampled = txt2img("-v", 1, "-c", bare, "--config", tmp_path / "tiny.yaml")
    assert Image.open(sampled.paths[0]).info["ldm.prompt"] == "a dog"
    assert Image.open(sampled.paths[0]).info["ldm.steps"] == "2"
    expected = txt2img("-v", 1, "-p", "a dog", "--ddim-steps", 2).images[0]
    assert difference(sampled.images[0], expected) <= 1


def test_without_other_weights_the_embedded_model_is_used_with_a_message(
    txt2img: Sample, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "DOWNLOADED", tmp_path / "empty")
    monkeypatch.setattr(models, "EMBEDDED", tiny_checkpoint)
    outcome = call("txt2img", "-v", 1)
    assert outcome.status == 0
    for words in ("embedded tiny model", "bash download/sd-weights.sh", "--ckpt-path"):
        assert words in outcome.said


def test_downloaded_weights_are_used_with_a_message(
    txt2img: Sample, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ROOT", tmp_path)
    monkeypatch.setattr(models, "DOWNLOADED", tmp_path / "weights" / "sd-v1")
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "weights" / "sd-v1")
    outcome = call("txt2img", "-v", 1)
    assert outcome.status == 0
    assert "weights: weights/sd-v1/tiny.safetensors (downloaded" in outcome.said


# Mistakes


def test_a_directory_without_a_checkpoint_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    refused(call("txt2img", "-c", tmp_path / "empty"), str(tmp_path / "empty"))
    assert not (tmp_path / "outputs").exists()


def test_an_output_dir_that_is_a_file_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(call("txt2img", "-c", tiny_checkpoint, "-o", tmp_path / "file"), str(tmp_path / "file"))


def test_a_missing_tokenizer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "tokenizer")
    refused(call("txt2img", "-c", checkpoint, "-v", 1), "vocab.json", "copy the base model's tokenizer there")


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("model.diffusion_model.out.2.bias", "not finite from step 1"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "not finite from step 1"),
        ("first_stage_model.decoder.conv_out.bias", "autoencoder's images are not finite"),
    ],
)
def test_weights_that_are_broken_give_an_error_that_names_them_and_not_a_black_image(
    key: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    tensors, metadata = tensors_of(checkpoint), metadata_of(checkpoint)
    tensors[key] = torch.full_like(tensors[key], torch.nan)
    save_file(tensors, tmp_path / "tiny" / "nan.safetensors", metadata=metadata)
    outcome = call("txt2img", "-c", tmp_path / "tiny" / "nan.safetensors", "-v", 1)
    refused(outcome, where, f"the checkpoint is broken: its {key} holds NaN", "use another file")
    assert "--precision full" not in outcome.said

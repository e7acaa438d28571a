"""Which weights and settings a command uses, and the one model that changes its weights in place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ldm.checkpoint.reading import read_checkpoint
from ldm.config import build_config, read_yaml, to_yaml
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.runtime import models
from ldm.runtime.devices import Compute
from ldm.runtime.models import DEFAULT_CONFIG, ModelSlot, base_weights, read_tokenizer, settings_of, snapped_size
from ldm.runtime.tokenizers import find_tokenizer
from tests.tiny import TINY_YAML, build_tiny_model, tiny_config, write_tiny_checkpoint

CPU = Compute(torch.device("cpu"))


# Base weights


def test_a_named_checkpoint_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "DOWNLOADED", tmp_path)
    (tmp_path / "sd.safetensors").touch()
    assert base_weights(Path("my.ckpt")) == Path("my.ckpt")


def test_downloaded_weights_are_found_among_other_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "ROOT", tmp_path)
    monkeypatch.setattr(models, "DOWNLOADED", tmp_path / "weights")
    (tmp_path / "weights" / "tokenizer").mkdir(parents=True)
    (tmp_path / "weights" / "README.md").touch()
    (tmp_path / "weights" / "sd-v1-4.ckpt").touch()
    assert base_weights(None) == tmp_path / "weights" / "sd-v1-4.ckpt"


def test_a_download_that_has_not_ended_is_no_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models, "DOWNLOADED", tmp_path)
    (tmp_path / "sd-v1-4.ckpt.partial").touch()
    with caplog.at_level("INFO", logger="ldm"):
        assert base_weights(None) == models.EMBEDDED
    assert "bash download/sd-weights.sh" in caplog.text


# Settings


def test_a_checkpoints_own_settings_are_used(tiny_checkpoint: Path) -> None:
    values, settings = settings_of(read_checkpoint(tiny_checkpoint), None)
    assert values == TINY_YAML
    assert settings.model == tiny_config()
    assert settings.sampling.num_steps == 3
    assert settings.dreambooth.iterations == 6


def test_a_named_config_goes_before_the_checkpoints_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(to_yaml(TINY_YAML | {"sampling": {"num_steps": 9}}))
    values, settings = settings_of(read_checkpoint(tiny_checkpoint), tmp_path / "tiny.yaml")
    assert values["sampling"] == {"num_steps": 9}
    assert settings.sampling.num_steps == 9


def test_a_checkpoint_that_says_nothing_is_taken_for_sd_v1(tmp_path: Path) -> None:
    values, settings = settings_of(read_checkpoint(write_tiny_checkpoint(tmp_path, config={})), None)
    assert values == read_yaml(DEFAULT_CONFIG)
    assert settings.model == LatentDiffusionConfig()
    assert settings.tokenizer == "ldm/assets/clip-tokenizer"


@pytest.mark.parametrize("config", [{}, {**read_yaml(DEFAULT_CONFIG), "tokenizer": "weights/sd-v1/tokenizer"}])
def test_sd_v1s_vocabulary_is_here_without_a_download(config: dict[str, Any], tmp_path: Path) -> None:
    """Also for checkpoints that were trained when it had to be downloaded."""
    file = read_checkpoint(write_tiny_checkpoint(tmp_path, config=config))
    shutil.rmtree(tmp_path / "tokenizer")
    settings = settings_of(file, None)[1]
    tokenizer = read_tokenizer(find_tokenizer(file.path, settings.tokenizer), settings)
    assert len(tokenizer.clip_tokenizer) == settings.model.text_encoder.vocab_size == 49408


def test_sd_v1s_file_holds_every_setting() -> None:
    """Whoever reads it sees all there is to set, with the values that are used."""
    settings = build_config(models.Settings, read_yaml(DEFAULT_CONFIG), "sd-v1.yaml")
    assert settings.sampling.height == settings.sampling.width == 512
    assert settings.dreambooth.learning_rate == 5e-6
    assert settings.dreambooth.iterations == 1000


def test_damaged_metadata_are_the_files_fault(tmp_path: Path) -> None:
    file = read_checkpoint(write_tiny_checkpoint(tmp_path))
    file.metadata["ldm.config"] = "{"
    with pytest.raises(UserError, match=r"tiny\.safetensors: its metadata are damaged"):
        settings_of(file, None)


def test_the_tokenizer_beside_a_checkpoint_goes_first(tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = settings_of(read_checkpoint(tiny_checkpoint), None)[1]
    assert find_tokenizer(tiny_checkpoint, settings.tokenizer) == tiny_checkpoint.parent / "tokenizer"
    assert find_tokenizer(tmp_path / "alone.ckpt", settings.tokenizer) == ROOT / "weights" / "tiny" / "tokenizer"


# Sizes


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=2), st.sampled_from([tiny_config(), LatentDiffusionConfig()])
)
def test_sizes_are_the_nearest_that_the_unet_takes(hw: list[int], config: LatentDiffusionConfig) -> None:
    multiple = config.size_multiple
    height, width = snapped_size(config, hw, (512, 512))
    for wanted, side in ((hw[0], height), (hw[-1], width)):
        assert side % multiple == 0
        assert side >= multiple
        assert abs(side - wanted) <= multiple // 2 or side == multiple


def test_a_size_is_changed_with_a_note_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ldm")
    assert snapped_size(tiny_config(), None, (32, 48)) == (32, 48)
    assert not caplog.records
    assert snapped_size(tiny_config(), [500, 45], (32, 48)) == (496, 48)
    assert "496 x 48 instead of 500 x 45" in caplog.text


def test_three_numbers_are_no_size() -> None:
    with pytest.raises(UserError, match="--hw"):
        snapped_size(tiny_config(), [1, 2, 3], (32, 32))


# The slot


@pytest.fixture
def use(tmp_path: Path) -> Callable[..., Any]:
    """Uses the checkpoint of a model that `change` was made to, in one slot."""
    slot = ModelSlot(CPU)

    def load(name: str, change: Callable[[Any], None] = lambda model: None) -> ModelSlot:
        model = build_tiny_model()
        with torch.no_grad():
            change(model)
        file = read_checkpoint(write_tiny_checkpoint(tmp_path / name, model=model))
        slot.use(file, settings_of(file, None)[1])
        return slot

    return load


def test_the_slot_holds_one_model_and_takes_over_what_differs(use: Callable[..., Any]) -> None:
    slot = use("first")
    model, text = slot.ldm, next(slot.ldm.text_encoder.parameters())
    unet = next(slot.ldm.unet.parameters()).clone()
    use("second", lambda changed: next(changed.unet.parameters()).add_(1.0))
    assert slot.ldm is model
    assert next(slot.ldm.text_encoder.parameters()) is text
    torch.testing.assert_close(next(slot.ldm.unet.parameters()), unet + 1.0)


def test_contexts_are_kept_as_long_as_the_text_encoder_is(use: Callable[..., Any]) -> None:
    slot = use("first")
    context = slot.context("a cat")
    assert slot.context("a cat") is context
    use("second", lambda changed: next(changed.unet.parameters()).add_(1.0))
    assert slot.context("a cat") is context
    use("third", lambda changed: next(changed.text_encoder.parameters()).add_(1.0))
    assert not torch.equal(slot.context("a cat"), context)


def test_going_back_to_the_first_checkpoint_gives_its_context_again(use: Callable[..., Any]) -> None:
    slot = use("first")
    context = slot.context("a cat").clone()
    use("second", lambda changed: next(changed.text_encoder.parameters()).mul_(2.0))
    use("third")
    assert torch.equal(slot.context("a cat"), context)


def test_weights_are_placed_in_the_slots_type(tiny_checkpoint: Path) -> None:
    file = read_checkpoint(tiny_checkpoint)
    ldm = ModelSlot(Compute(torch.device("cpu"), torch.bfloat16)).use(file, settings_of(file, None)[1])
    assert {parameter.dtype for parameter in ldm.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in ldm.parameters())
    assert not ldm.training


@pytest.mark.parametrize("channels", [4, 8, 9])
def test_input_channels_of_a_file_without_yaml_are_those_of_its_weights(channels: int, tmp_path: Path) -> None:
    """8 are InstructPix2Pix, 9 a model for inpainting: the official files have no YAML."""
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({key: torch.zeros(320, channels, 3, 3)}, tmp_path / "official.safetensors")
    values, settings = settings_of(read_checkpoint(tmp_path / "official.safetensors"), None)
    assert settings.model.unet.in_channels == values["model"]["unet"]["in_channels"] == channels
    chosen = ("euler-ancestral", 100) if channels == 8 else ("ddim", 50)  # as the authors of InstructPix2Pix sample
    assert (settings.sampling.sampler, settings.sampling.num_steps) == chosen

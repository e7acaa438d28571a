"""Another autoencoder: from every kind of file it is the same, and one that doesn't fit is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm.checkpoint.keys import PARTS
from ldm.checkpoint.loading import Placement, checkpoint_info, load_model, part_digests
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.replacing import find_autoencoder, with_autoencoder
from ldm.errors import UserError
from tests.checkpoint.diffusers_files import UNET, edit_json, write_tiny_directory
from tests.tiny import build_tiny_model, tiny_config, write_tiny_checkpoint

PREFIX = PARTS["autoencoder"]


def alone(path: Path) -> Path:
    """As autoencoders are published: the official names without their beginning, and the rest of a training."""
    tensors = {key.removeprefix(PREFIX): t for key, t in build_tiny_model(1).state_dict().items() if PREFIX in key}
    torch.save({"state_dict": {**tensors, "loss.logvar": torch.zeros(()), "model_ema.decay": torch.ones(())}}, path)
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "a file of it": lambda path: alone(path / "vae.pt"),
    "a whole checkpoint": lambda path: write_tiny_checkpoint(path / "other", model=build_tiny_model(1)),
    "a diffusers directory": lambda path: write_tiny_directory(path / "pipeline", seed=1),
    "its folder": lambda path: write_tiny_directory(path / "pipeline", seed=1) / "vae",
    "its file": lambda path: write_tiny_directory(path / "pipeline", seed=1) / "vae" / f"{UNET}.safetensors",
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_the_autoencoder_is_replaced_and_nothing_else(source: Callable[[Path], Path], tmp_path: Path) -> None:
    file = read_checkpoint(write_tiny_checkpoint(tmp_path))
    replaced = with_autoencoder(file, find_autoencoder(source(tmp_path)), tiny_config())
    expected = build_tiny_model(1).state_dict()
    for one in (replaced, replaced.in_memory(tuple(PARTS.values())), replaced.opener()()):
        for key, tensor in build_tiny_model().state_dict().items():
            assert torch.equal(one.tensors[key], expected[key] if key.startswith(PREFIX) else tensor), key
    before, after = (part_digests(one.path, checkpoint_info(one)) for one in (file, replaced))
    assert {part for part in before if before[part] != after[part]} == {"autoencoder"}


def test_a_checkpoint_without_an_autoencoder_gets_one(tmp_path: Path) -> None:
    tensors = {key: t for key, t in build_tiny_model().state_dict().items() if not key.startswith(PREFIX)}
    file = CheckpointFile(write_tiny_checkpoint(tmp_path), tensors)
    with pytest.raises(UserError, match=r"a model without its autoencoder .* adds one"):
        load_model(file, tiny_config(), Placement(torch.device("cpu")))
    whole = with_autoencoder(file, find_autoencoder(alone(tmp_path / "vae.pt")), tiny_config())
    assert load_model(whole, tiny_config(), Placement(torch.device("cpu"))).autoencoder is not None


def of_another_scale(path: Path) -> Path:
    directory = write_tiny_directory(path / "xl") / "vae"
    edit_json(directory / "config.json", scaling_factor=0.13025)
    return directory


def of_another_shape(path: Path) -> Path:
    torch.save({**torch.load(alone(path / "a.pt"))["state_dict"], "quant_conv.bias": torch.zeros(6)}, path / "vae.pt")
    return path / "vae.pt"


def a_lora(path: Path) -> Path:
    save_file({"lora_unet_mid_block_attentions_0_proj_in.alpha": torch.ones(())}, path / "lora.safetensors")
    return path / "lora.safetensors"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (of_another_scale, "its latents are scaled by 0.13025, the model's by 0.18215"),
        (of_another_shape, "quant_conv.bias (6,) instead of (8,)"),
        (a_lora, "holds no autoencoder (VAE); it looks like a LoRA"),
        (lambda path: path, "holds no autoencoder: --vae takes a file"),
        (lambda path: path / "nowhere", "could not read"),
    ],
)
def test_one_that_does_not_fit_is_refused(source: Callable[[Path], Path], word: str, tmp_path: Path) -> None:
    file = read_checkpoint(write_tiny_checkpoint(tmp_path / "model"))
    with pytest.raises(UserError) as error:
        with_autoencoder(file, find_autoencoder(source(tmp_path)), tiny_config())
    assert word in str(error.value)

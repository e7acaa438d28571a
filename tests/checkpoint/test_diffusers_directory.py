"""A diffusers directory is read as the same weights, whatever way it was saved; another model's is refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm.checkpoint.discovery import find_checkpoints
from ldm.checkpoint.loading import checkpoint_info, part_digests, raise_unless_whole
from ldm.checkpoint.reading import read_checkpoint
from ldm.checkpoint.saving import hash_weights
from ldm.errors import UserError
from ldm.nn.tokenizer import tokenizer_digest
from ldm.runtime.models import settings_of
from ldm.runtime.tokenizers import find_tokenizer
from tests.checkpoint.diffusers_files import UNET, WAYS, as_variant, edit_json, shard, write_tiny_directory
from tests.checkpoint.files import Calls
from tests.tiny import build_tiny_model, tiny_config, write_tiny_checkpoint, write_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_tiny_directory(tmp_path / "model")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_saving_gives_the_same_model(way: str, directory: Path, tmp_path: Path) -> None:
    WAYS[way](directory)
    file = read_checkpoint(directory)
    settings = settings_of(file, None)[1]
    raise_unless_whole(file, settings.model)
    expected = build_tiny_model().state_dict()
    assert file.tensors.keys() == expected.keys()
    assert all(torch.equal(file.tensors[key], tensor) for key, tensor in expected.items())
    assert settings.model.autoencoder == tiny_config().autoencoder
    assert settings.model.text_encoder == tiny_config().text_encoder
    assert (settings.sampling.height, settings.sampling.guidance_scale) == (32, 7.5)
    tokenizer = find_tokenizer(directory, settings.tokenizer)
    if way != "tokenizer.json":
        assert tokenizer_digest(tokenizer) == tokenizer_digest(write_tokenizer(tmp_path / "expected"))


def test_full_precision_goes_before_a_variant(directory: Path, tmp_path: Path) -> None:
    as_variant(write_tiny_directory(tmp_path / "half", torch.float16))
    for path in (tmp_path / "half").glob("*/*.safetensors"):
        path.rename(directory / path.relative_to(tmp_path / "half"))
    assert {tensor.dtype for tensor in read_checkpoint(directory).tensors.values()} == {torch.float32}


@pytest.mark.parametrize("heads", [2, [2, 2]])
def test_the_number_of_heads_is_read(heads: object, directory: Path) -> None:
    edit_json(directory / "unet" / "config.json", attention_head_dim=heads)
    assert settings_of(read_checkpoint(directory), None)[1].model.unet.num_heads == 2


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "XL": (lambda d: edit_json(d / "model_index.json", _class_name="StableDiffusionXLPipeline"), "Stable Diffusion XL"),
    "3": (lambda d: edit_json(d / "model_index.json", _class_name="StableDiffusion3Pipeline"), "Stable Diffusion 3"),
    "Flux": (lambda d: edit_json(d / "model_index.json", _class_name="FluxPipeline"), "Flux"),
    "Cascade": (lambda d: edit_json(d / "model_index.json", _class_name="StableCascadePriorPipeline"), "Cascade"),
    "another": (lambda d: edit_json(d / "model_index.json", _class_name="KandinskyPipeline"), "KandinskyPipeline"),
    "2": (lambda d: edit_json(d / "unet" / "config.json", use_linear_projection=True), "Stable Diffusion 2"),
    "an upscaler": (lambda d: edit_json(d / "unet" / "config.json", in_channels=7), "an upscaler's checkpoint"),
    "velocity": (
        lambda d: edit_json(d / "scheduler" / "scheduler_config.json", prediction_type="v_prediction"),
        "prediction_type should be 'epsilon'",
    ),
    "different heads": (lambda d: edit_json(d / "unet" / "config.json", attention_head_dim=[4, 8]), "the same in all"),
    "an activation": (lambda d: edit_json(d / "unet" / "config.json", act_fn="gelu"), "act_fn should be 'silu'"),
    "a new setting": (lambda d: edit_json(d / "unet" / "config.json", time_cond_proj_dim=256), "time_cond_proj_dim"),
    "blocks": (
        lambda d: edit_json(d / "unet" / "config.json", up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"]),
        "up_block_types",
    ),
    "widths": (lambda d: edit_json(d / "vae" / "config.json", block_out_channels=[32, 40]), "multiples of the first"),
    "no JSON": (lambda d: (d / "unet" / "config.json").write_text("<html>"), "is not JSON"),
    "no config": (lambda d: (d / "text_encoder" / "config.json").unlink(), "is missing"),
    "no weights": (lambda d: (d / "unet" / f"{UNET}.safetensors").unlink(), "without"),
    "a pointer": (
        lambda d: (d / "unet" / f"{UNET}.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "code": (
        lambda d: (
            (d / "unet" / f"{UNET}.safetensors").unlink(),
            torch.save({"a": Calls(print, "x")}, d / "unet" / f"{UNET}.bin"),
        ),
        "could run code",
    ),
    "a lost shard": (
        lambda d: (shard(d), (d / "unet" / f"{UNET}-00002-of-00003.safetensors").unlink()),
        "names diffusion_pytorch_model-00002-of-00003.safetensors, which is missing",
    ),
    "a shard elsewhere": (
        lambda d: (
            shard(d),
            edit_json(d / "unet" / f"{UNET}.safetensors.index.json", weight_map={"a": "../vae/x.safetensors"}),
        ),
        "is not a file beside it",
    ),
}


@pytest.mark.parametrize(("change", "word"), UNFIT.values(), ids=list(UNFIT))
def test_what_can_not_be_read_is_named(change: Callable[[Path], object], word: str, directory: Path) -> None:
    change(directory)
    with pytest.raises(UserError) as error:
        read_checkpoint(directory)
    assert word in str(error.value)
    assert str(directory) in str(error.value)


def test_its_digests_change_with_its_files(directory: Path) -> None:
    info = checkpoint_info(read_checkpoint(directory))
    before, whole = part_digests(directory, info), hash_weights(directory)
    write_tiny_directory(directory.parent / "other", seed=1)
    (directory.parent / "other" / "vae" / f"{UNET}.safetensors").replace(directory / "vae" / f"{UNET}.safetensors")
    after = part_digests(directory, checkpoint_info(read_checkpoint(directory)))
    assert {part for part in before if before[part] != after[part]} == {"autoencoder"}
    assert hash_weights(directory) != whole


def test_among_checkpoints_it_is_one(directory: Path) -> None:
    write_tiny_checkpoint(directory.parent / "run-1", name="step-00003.safetensors")
    found, skipped = find_checkpoints(directory.parent, lambda file: file.path)
    assert found == [directory, directory.parent / "run-1" / "step-00003.safetensors"]
    assert skipped == []
